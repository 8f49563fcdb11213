package main

import (
	"bufio"
	"bytes"
	"debug/elf"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// initScript is process 1 of the guest.
//
//go:embed init.sh
var initScript []byte

// guest describes the contents of the virtual machine and its command.
type guest struct {
	kernel  string   // unpacked kernel package
	busybox string   // static
	modules []string // to load
	files   []string // HOST=GUEST
	images  []string // HOST=GUEST
	legacy  string   // controllers of v1 hierarchies, with commas between
	env     []string // NAME=VALUE
	dir     string
	argv    []string
}

// writeInitramfs writes the guest's first root file system, uncompressed: QEMU copies it at once, and the guest's
// emulated processor has nothing to unpack.
func (g guest) writeInitramfs(path string) (err error) {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	buffered := bufio.NewWriterSize(file, 1<<20)
	w := newCPIO(buffered)
	if err := g.addSystem(w); err != nil {
		return err
	}
	if err := g.addModules(w); err != nil {
		return err
	}
	for _, pair := range g.files {
		from, to, ok := strings.Cut(pair, "=")
		if !ok || !filepath.IsAbs(to) {
			return fmt.Errorf("-file %q is not HOST=/GUEST", pair)
		}
		if err := addTree(w, from, to); err != nil {
			return err
		}
	}
	if err := w.close(); err != nil {
		return err
	}
	return buffered.Flush()
}

// addSystem adds the files of every guest. The kernel opens /dev/console for process 1 before anything is mounted.
func (g guest) addSystem(w *cpio) error {
	busybox, err := readStatic(g.busybox)
	if err != nil {
		return err
	}
	w.device("/dev/console", 0o600, 5, 1)
	w.file("/init", 0o755, initScript)
	w.file("/bin/busybox", 0o755, busybox)
	w.symlink("/bin/sh", "busybox")
	w.file("/etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n"))
	w.file("/etc/group", 0o644, []byte("root:x:0:\nnogroup:x:65534:\n"))
	w.file("/vm/command", 0o755, g.command())
	mounts, err := g.imageMounts()
	if err != nil {
		return err
	}
	w.file("/vm/images", 0o644, mounts)
	w.file("/vm/v1", 0o644, []byte(strings.ReplaceAll(g.legacy, ",", " ")+"\n"))
	return w.err
}

// readStatic reads a program in PATH. The error reports a program that needs shared libraries.
func readStatic(name string) ([]byte, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	file, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	for _, p := range file.Progs {
		if p.Type == elf.PT_INTERP {
			return nil, fmt.Errorf("%s is not static: install busybox-static in its place", path)
		}
	}
	return data, nil
}

// command returns the script that becomes the command.
func (g guest) command() []byte {
	var b bytes.Buffer
	for _, pair := range g.env {
		fmt.Fprintf(&b, "export %s\n", quote(pair))
	}
	fmt.Fprintf(&b, "mkdir -p %[1]s && cd %[1]s || exit 126\nexec", quote(g.dir))
	for _, arg := range g.argv {
		b.WriteString(" " + quote(arg))
	}
	b.WriteByte('\n')
	return b.Bytes()
}

// imageMounts returns a line for each image: its disk's serial number, and its mountpoint in the guest.
func (g guest) imageMounts() ([]byte, error) {
	var b bytes.Buffer
	for i, pair := range g.images {
		_, to, ok := strings.Cut(pair, "=")
		if !ok || !filepath.IsAbs(to) || strings.ContainsAny(to, " \n") {
			return nil, fmt.Errorf("-image %q is not HOST=/GUEST", pair)
		}
		fmt.Fprintf(&b, "%s %s\n", imageName(i), to)
	}
	return b.Bytes(), nil
}

// quote quotes a word for the shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// addModules adds the modules under names that sort in the order of loading.
func (g guest) addModules(w *cpio) error {
	tree, err := openModules(g.kernel)
	if err != nil {
		return err
	}
	modules, err := tree.resolve(g.modules)
	if err != nil {
		return err
	}
	for i, m := range modules {
		w.file(fmt.Sprintf("/vm/modules/%02d-%s.ko", i, m.name), 0o644, m.data)
	}
	return w.err
}

// addTree adds a file, or a directory with all of its contents; symbolic links stay links.
func addTree(w *cpio, from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		info, err := os.Lstat(path)
		if err != nil {
			return err
		}
		name, mode := filepath.Join(to, rel), uint32(info.Mode().Perm())
		switch {
		case info.IsDir():
			w.directory(name, mode)
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			w.symlink(name, target)
		case info.Mode().IsRegular():
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			w.file(name, mode, data)
		default:
			return fmt.Errorf("%s is neither a file nor a directory", path)
		}
		return w.err
	})
}
