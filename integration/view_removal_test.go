package integration

import (
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// TestOpenWhileRemoved: who opens a control file while the guest removes its cgroup, or switches its controller off, gets the
// file or one of the errnos that cgroupfs has for that.
func TestOpenWhileRemoved(t *testing.T) {
	h := kit.OpenHost(t)
	t.Run("cgroup", func(t *testing.T) {
		hier := kit.NeedHierarchy(t, h, "pids")
		path := kit.NewBoundary(t, "removed", hier)
		v := kit.MountView(t, "--boundary", path, "--controllers", "pids")
		q := filepath.Join(v.Top(hier), "q")
		removalRace(t, kit.Scaled(t, 500, 50), filepath.Join(q, kit.Procs), func() {
			unix.Mkdir(q, 0o755)
			unix.Rmdir(q)
		})
		unix.Rmdir(q)
	})
	t.Run("controller", func(t *testing.T) {
		hier := kit.NeedHierarchy(t, h, hierarchy.Unified)
		controller, file := renewable(hier)
		if controller == "" {
			t.Skip("machine: the v2 tree has no controller with a limit")
		}
		_, _, top := kit.MountUnified(t, "switched")
		control := filepath.Join(top, "cgroup.subtree_control")
		removalRace(t, kit.Scaled(t, 50, 10), filepath.Join(top, "a", file), func() {
			kit.WriteFile(control, "+"+controller)
			kit.WriteFile(control, "-"+controller)
		})
	})
}

// removalRace has a file made and removed again and again, while readers and writers open it.
func removalRace(t *testing.T, rounds int, file string, round func()) {
	var opens, found, wrong atomic.Int64
	var stop atomic.Bool
	var all sync.WaitGroup
	for i, flags := range []int{unix.O_RDONLY, unix.O_RDONLY, unix.O_WRONLY, unix.O_RDWR} {
		all.Go(func() {
			for !stop.Load() {
				fd, err := unix.Open(file, flags|unix.O_CLOEXEC, 0)
				switch opens.Add(1); err {
				case nil:
					if found.Add(1); i == 0 {
						unix.Pread(fd, make([]byte, 10), 0)
					}
					if err := unix.Close(fd); err != nil {
						t.Errorf("close: %v", err)
					}
				case unix.ENOENT, unix.ENODEV:
				default:
					if wrong.Add(1) == 1 {
						t.Logf("flags %#x: %v", flags, err)
					}
				}
			}
		})
	}
	began := time.Now()
	for range rounds {
		round()
	}
	took := time.Since(began)
	stop.Store(true)
	all.Wait()
	t.Logf("%d rounds of %v: %d opens, %d found the file, %d got an errno that cgroupfs does not have", rounds,
		(took / time.Duration(rounds)).Round(time.Microsecond), opens.Load(), found.Load(), wrong.Load())
	if found.Load() == 0 {
		t.Error("no open met the file: nothing was tested")
	}
	if wrong.Load()*1000 > opens.Load() { // a thread that is not run for settleTime
		t.Errorf("%d of %d opens are wrong", wrong.Load(), opens.Load())
	}
}

// TestRmdirAtTop: a hierarchy at the top of a view is removed as little as the mount point that it is natively.
func TestRmdirAtTop(t *testing.T) {
	h := kit.OpenHost(t)
	hier := kit.NeedHierarchy(t, h, "pids")
	if hier.Version == hierarchy.V2 {
		t.Skip("machine: pids is of the v2 tree; at the top of its view are cgroups alone")
	}
	if got := kit.Rmdir(hier.Mountpoint); got != "EBUSY" {
		t.Fatalf("natively: %s", got)
	}
	v := kit.MountView(t, "--boundary", kit.NewBoundary(t, "top", hier), "--controllers", "pids", "--layout", "v1")
	for what, want := range map[string]string{v.Top(hier): "EBUSY", filepath.Join(v.Dir, "none"): "ENOENT", v.Dir: "EBUSY"} {
		if got := kit.Rmdir(what); got != want {
			t.Errorf("rmdir of %s: %s, want %s", what, got, want)
		}
	}
}
