package main

import (
	"bytes"
	"debug/elf"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// kernelModule is one module, uncompressed.
type kernelModule struct {
	name string
	data []byte
}

// moduleTree finds modules in an unpacked kernel package. The package has no modules.dep (depmod writes it when the
// package is installed), so each module's own section tells its dependencies.
type moduleTree struct {
	paths   map[string]string // name: file
	builtin map[string]bool
}

// moduleName returns the kernel's name of a module file: virtio_fs for fs/fuse/virtio-fs.ko.xz.
func moduleName(path string) string {
	name, _, _ := strings.Cut(filepath.Base(path), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// openModules lists the modules of the kernel package at dir.
func openModules(dir string) (*moduleTree, error) {
	t := &moduleTree{paths: map[string]string{}, builtin: map[string]bool{}}
	// /lib/modules, or /usr/lib/modules since Debian 13.
	for _, root := range []string{"lib/modules", "usr/lib/modules"} {
		err := filepath.WalkDir(filepath.Join(dir, root), func(path string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case d.Name() == "modules.builtin":
				return t.readBuiltin(path)
			case d.Type().IsRegular() && strings.Contains(d.Name(), ".ko"):
				t.paths[moduleName(path)] = path
			}
			return nil
		})
		if err != nil && !os.IsNotExist(err) {
			return nil, err
		}
	}
	return t, nil
}

func (t *moduleTree) readBuiltin(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	for name := range strings.FieldsSeq(string(data)) {
		t.builtin[moduleName(name)] = true
	}
	return nil
}

// resolve returns the named modules and their dependencies, each after the modules that it needs. The error names a
// module that is neither built in nor in the package.
func (t *moduleTree) resolve(names []string) ([]kernelModule, error) {
	var order []kernelModule
	seen := map[string]bool{}
	var add func(name string) error
	add = func(name string) error {
		name = strings.ReplaceAll(name, "-", "_")
		if name == "" || seen[name] || t.builtin[name] {
			return nil
		}
		seen[name] = true
		path, ok := t.paths[name]
		if !ok {
			return fmt.Errorf("the kernel has no module %s", name)
		}
		data, err := readModule(path)
		if err != nil {
			return err
		}
		needs, err := dependencies(data)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		for _, need := range needs {
			if err := add(need); err != nil {
				return fmt.Errorf("%s needs %s: %w", name, need, err)
			}
		}
		order = append(order, kernelModule{name, data})
		return nil
	}
	for _, name := range names {
		if err := add(name); err != nil {
			return nil, err
		}
	}
	return order, nil
}

// readModule reads a module file and undoes its compression.
func readModule(path string) ([]byte, error) {
	programs := map[string]string{".xz": "xz", ".zst": "zstd", ".gz": "gzip"}
	program, ok := programs[filepath.Ext(path)]
	if !ok {
		return os.ReadFile(path)
	}
	data, err := exec.Command(program, "-dc", path).Output()
	if err != nil {
		return nil, fmt.Errorf("cannot uncompress %s: %w", path, err)
	}
	return data, nil
}

// dependencies reads "depends=a,b" from a module's .modinfo section (MODULE_INFO in include/linux/module.h).
func dependencies(module []byte) ([]string, error) {
	file, err := elf.NewFile(bytes.NewReader(module))
	if err != nil {
		return nil, err
	}
	section := file.Section(".modinfo")
	if section == nil {
		return nil, fmt.Errorf("no .modinfo section")
	}
	info, err := section.Data()
	if err != nil {
		return nil, err
	}
	for field := range strings.SplitSeq(string(info), "\x00") {
		if list, ok := strings.CutPrefix(field, "depends="); ok {
			return strings.FieldsFunc(list, func(r rune) bool { return r == ',' }), nil
		}
	}
	return nil, nil
}
