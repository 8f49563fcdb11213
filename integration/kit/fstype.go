package kit

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// TypeRefusal says why statfs of views cannot be answered by BPF here, "" where it can.
var TypeRefusal = sync.OnceValue(func() string {
	out, _ := exec.Command(os.Getenv("VCGROUPFS"), "doctor", "--json", "--socket", "/none").Output()
	var says struct {
		Checks []struct{ Name, State, Found string }
	}
	if err := json.Unmarshal(out, &says); err != nil {
		return err.Error()
	}
	for _, c := range says.Checks {
		if c.Name == "file-system type" {
			if c.State == "ok" {
				return ""
			}
			return c.Found
		}
	}
	return "doctor does not say"
})

// NeedType skips a test where statfs of views cannot be answered by BPF.
func NeedType(t testing.TB) {
	t.Helper()
	Program(t)
	if why := TypeRefusal(); why != "" {
		t.Skip("machine: " + why)
	}
}

// NativeType is what statfs says natively in a hierarchy.
func NativeType(hier *host.Hierarchy) int64 {
	if hier.Version == hierarchy.V2 {
		return unix.CGROUP2_SUPER_MAGIC
	}
	return unix.CGROUP_SUPER_MAGIC
}

// statfsForms are the ways to ask for the type of what is at a path.
var statfsForms = map[string]func(path string, st *unix.Statfs_t) error{
	"statfs": unix.Statfs,
	"fstatfs of O_PATH": func(path string, st *unix.Statfs_t) error {
		fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Fstatfs(fd, st)
	},
	"fstatfs": func(path string, st *unix.Statfs_t) error {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Fstatfs(fd, st)
	},
	"statfs through /proc/self/fd": func(path string, st *unix.Statfs_t) error {
		fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Statfs(fmt.Sprintf("/proc/self/fd/%d", fd), st)
	},
	"statfs of a symbolic link": func(path string, st *unix.Statfs_t) error {
		link := filepath.Join(os.TempDir(), Prefix+"link")
		if err := os.Symlink(path, link); err != nil {
			return err
		}
		defer os.Remove(link)
		return unix.Statfs(link, st)
	},
	"statfs of a relative path": func(path string, st *unix.Statfs_t) (err error) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			runtime.LockOSThread() // never unlocked: the thread ends with its working directory
			if err = unix.Unshare(unix.CLONE_FS); err == nil {
				err = unix.Chdir(filepath.Dir(path))
			}
			if err == nil {
				err = unix.Statfs(filepath.Base(path), st)
			}
		}()
		<-done
		return err
	},
}

// WantType asks in every way.
func WantType(t testing.TB, path string, want int64) {
	t.Helper()
	for form, ask := range statfsForms {
		var st unix.Statfs_t
		if err := ask(path, &st); err != nil || st.Type != want {
			t.Errorf("%s: %s: %#x, %v; want %#x", path, form, st.Type, err, want)
		}
	}
}

// TypePrograms are the programs and maps in the kernel that are ours.
func TypePrograms() (found []string) {
	for id, err := ebpf.ProgramGetNextID(0); err == nil; id, err = ebpf.ProgramGetNextID(id) {
		if p, err := ebpf.NewProgramFromID(id); err == nil {
			if info, err := p.Info(); err == nil && strings.HasPrefix(info.Name, "vcg_") {
				found = append(found, fmt.Sprintf("program %d %s", id, info.Name))
			}
			p.Close()
		}
	}
	for id, err := ebpf.MapGetNextID(0); err == nil; id, err = ebpf.MapGetNextID(id) {
		if m, err := ebpf.NewMapFromID(id); err == nil {
			if info, err := m.Info(); err == nil && strings.HasPrefix(info.Name, "vcg_") {
				found = append(found, fmt.Sprintf("map %d %s", id, info.Name))
			}
			m.Close()
		}
	}
	return found
}

// WantNoPrograms waits for the kernel to have let go of all but those of before: it does so a grace period after the
// last descriptor.
func WantNoPrograms(t testing.TB, before []string) {
	t.Helper()
	for deadline := time.Now().Add(Patience); ; time.Sleep(20 * time.Millisecond) {
		left := slices.DeleteFunc(TypePrograms(), func(p string) bool { return slices.Contains(before, p) })
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("left in the kernel: %v", left)
			return
		}
	}
}

// The types that statfs says, in hexadecimal digits (include/uapi/linux/magic.h).
const (
	FUSEType    = "65735546"
	CgroupType  = "27e0eb"
	Cgroup2Type = "63677270"
	TmpfsType   = "1021994"
	ProcType    = "9fa0"
)

// ViewTypes are the types of a view's top and of a hierarchy in it.
func ViewTypes(hier *host.Hierarchy) map[string]string {
	if hier.Version == hierarchy.V2 {
		return map[string]string{GuestView: Cgroup2Type}
	}
	return map[string]string{GuestView: TmpfsType, TopOf(GuestView, hier): CgroupType}
}

// Need32 skips a test where the kernel runs no 32-bit programs.
func Need32(t *testing.T, program string) {
	t.Helper()
	if err := exec.Command(program).Run(); errors.Is(err, unix.ENOEXEC) {
		t.Skip("machine: its kernel runs no 32-bit programs (CONFIG_IA32_EMULATION)")
	}
}
