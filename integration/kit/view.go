package kit

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// View is a view that the program serves.
type View struct {
	Dir    string
	Cmd    *exec.Cmd
	Stderr *strings.Builder
}

// MountView starts "mount" and waits until it is there. It ends with the test, and must then have ended with status 0.
func MountView(t testing.TB, args ...string) *View {
	t.Helper()
	dir := PublicDir(t)
	return MountAt(t, dir, append(args, dir)...)
}

// MountAt does so with all arguments as they are; they say to mount at a directory.
func MountAt(t testing.TB, dir string, args ...string) *View {
	t.Helper()
	v := &View{Dir: dir, Stderr: &strings.Builder{}}
	v.Cmd = exec.Command(Program(t), withTransport("mount", args...)...)
	v.Cmd.Stderr = v.Stderr
	if err := v.Cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- v.Cmd.Wait() }()
	t.Cleanup(func() {
		v.Cmd.Process.Signal(unix.SIGTERM)
		select {
		case err := <-ended:
			if err != nil || v.Stderr.Len() > 0 {
				t.Errorf("the server ended with %v and said %q", err, v.Stderr)
			}
		case <-time.After(20 * time.Second):
			v.Cmd.Process.Signal(unix.SIGQUIT)
			<-ended
			t.Errorf("the server did not end: %s", v.Stderr)
		}
		unix.Unmount(v.Dir, unix.MNT_DETACH)
	})
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if IsFUSE(v.Dir) {
			return v
		}
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("the server ended before it was mounted: %v: %s", err, v.Stderr)
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("not mounted after 20 s: %s", v.Stderr)
		}
	}
}

// Top is the directory of a hierarchy in a view that shows no other.
func (v *View) Top(hier *host.Hierarchy) string { return TopOf(v.Dir, hier) }

// TopOf is where a hierarchy is in the view at a directory.
func TopOf(view string, hier *host.Hierarchy) string {
	if hier.Version == hierarchy.V2 {
		return view
	}
	return filepath.Join(view, hier.Dir)
}

// GuestView is where a guest finds its view.
const GuestView = "/sys/fs/cgroup"

// MountUnified is a view of a v2 boundary with a child.
func MountUnified(t *testing.T, name string) (hier *host.Hierarchy, path, top string) {
	t.Helper()
	h := OpenHost(t)
	hier = NeedHierarchy(t, h, hierarchy.Unified)
	path = NewBoundary(t, name, hier)
	v := MountView(t, "--boundary", path, "--controllers", strings.Join(ShownControllers(hier), ","), "--layout", "v2")
	if err := os.Mkdir(filepath.Join(v.Dir, "a"), 0o755); err != nil {
		t.Fatal(err)
	}
	return hier, path, v.Dir
}
