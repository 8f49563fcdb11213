package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// TestWritersBesideReaders: while the kernel reads a host's file by itself for one open, what another open of it writes
// still goes through the server, by every way of writing.
func TestWritersBesideReaders(t *testing.T) {
	h := kit.OpenHost(t)
	hier := kit.NeedHierarchy(t, h, "pids")
	path := kit.NewBoundary(t, "beside", hier)
	file := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(file, []byte("version: 1\nbelow: {guarded: {pids.max: {max: 100}}}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	v := kit.MountView(t, "--boundary", path, "--controllers", "pids", "--policy", file)
	top := v.Top(hier)
	if err := os.Mkdir(filepath.Join(top, "a"), 0o755); err != nil {
		t.Fatal(err)
	}
	if hier.Version == hierarchy.V2 {
		if got := kit.WriteFile(filepath.Join(top, "cgroup.subtree_control"), "+pids"); got != "ok" {
			t.Fatal(got)
		}
	}
	limit := filepath.Join(top, "a/pids.max")
	reader, err := unix.Open(limit, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(reader)
	read := func(fd int) string {
		buf := make([]byte, 32)
		n, err := unix.Pread(fd, buf, 0)
		if err != nil {
			return kit.ErrnoName(err)
		}
		return strings.TrimSpace(string(buf[:n]))
	}
	if got := read(reader); got != "max" {
		t.Errorf("at first %q", got)
	}
	for _, flags := range []int{unix.O_WRONLY, unix.O_RDWR, unix.O_WRONLY | unix.O_APPEND, unix.O_RDWR | unix.O_TRUNC | unix.O_NONBLOCK} {
		writer, err := unix.Open(limit, flags|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatalf("flags %#x: %v", flags, err)
		}
		if err := kit.WriteFD("0x20\n")(writer); err != nil || read(reader) != "32" {
			t.Errorf("flags %#x: a value within the constraint: %v, reads %q", flags, err, read(reader))
		}
		for name, do := range map[string]func() error{
			"write":  func() error { return kit.WriteFD("500")(writer) },
			"pwrite": func() error { _, err := unix.Pwrite(writer, []byte("500"), 3); return err },
			"writev": func() error { _, err := unix.Writev(writer, [][]byte{[]byte("50"), []byte("0")}); return err },
			"splice": func() error { return spliceInto(writer, "500") },
			"sendfile": func() error {
				in, err := unix.Open(kit.FileWith(t, "500"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
				if err != nil {
					return err
				}
				defer unix.Close(in)
				_, err = unix.Sendfile(writer, in, nil, 3)
				return err
			},
			"mmap": func() error {
				m, err := unix.Mmap(writer, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
				if err == nil {
					unix.Munmap(m)
				}
				return err
			},
		} {
			if flags&unix.O_APPEND != 0 && (name == "splice" || name == "sendfile") {
				continue // the kernel refuses both
			}
			if got := do(); got == nil || name != "mmap" && got != unix.EPERM {
				t.Errorf("flags %#x, %s of a value beyond the constraint: %v", flags, name, got)
			}
			if got := strings.TrimSpace(kit.ReadFile(filepath.Join(kit.HostDir(hier, path), "a/pids.max"))); got != "32" {
				t.Fatalf("flags %#x: %s set the host's file to %s", flags, name, got)
			}
		}
		unix.Close(writer)
		if err := kit.WriteFileErr(limit, "max"); err != unix.EPERM {
			t.Errorf("no limit: %v", err)
		}
	}
}

func spliceInto(fd int, value string) error {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return err
	}
	defer unix.Close(p[0])
	defer unix.Close(p[1])
	unix.Write(p[1], []byte(value))
	_, err := unix.Splice(p[0], nil, fd, nil, len(value), 0)
	return err
}
