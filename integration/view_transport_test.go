package integration

import (
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/fs/conn"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/integration/kit"
	"github.com/vcgroupfs/vcgroupfs/integration/kit/uring"
)

// enableURing has the kernel offer FUSE over io_uring until the test ends.
func enableURing(t testing.TB) {
	t.Helper()
	restore, err := uring.Enable()
	if errors.Is(err, uring.ErrUnsupported) {
		t.Skip("kernel: before 6.14 there is no FUSE over io_uring")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(restore)
}

// mountTransport mounts a view of one hierarchy by a transport. said reports that the server has said that it uses
// io_uring.
func mountTransport(t *testing.T, hier *host.Hierarchy, transport string) (top string, pid int, said func() bool) {
	t.Helper()
	name := strings.ReplaceAll(transport, "_", "")
	boundary := kit.NewBoundary(t, "transport-"+name, hier)
	dir := kit.PublicDir(t)
	log, err := os.Create(t.TempDir() + "/log")
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(kit.Program(t), "--log-level", "debug", "mount", "--transport", transport, "--boundary", boundary,
		"--controllers", hier.Names()[0], dir)
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		unix.Unmount(dir, unix.MNT_DETACH)
		cmd.Process.Signal(unix.SIGTERM)
		cmd.Wait()
	})
	kit.Eventually(t, "the view is mounted", func() bool { return kit.IsFUSE(dir) })
	top = kit.TopOf(dir, hier)
	if _, err := os.ReadDir(top); err != nil {
		t.Fatal(err)
	}
	return top, cmd.Process.Pid, func() bool {
		b, err := os.ReadFile(log.Name())
		return err == nil && strings.Contains(string(b), "requests come by io_uring")
	}
}

// TestTransport: the flag is obeyed, and auto takes io_uring where the kernel offers it.
func TestTransport(t *testing.T) {
	hier := kit.NeedHierarchy(t, kit.OpenHost(t), "pids")
	enableURing(t)
	for _, transport := range []string{"auto", "io_uring"} {
		_, _, said := mountTransport(t, hier, transport)
		kit.Eventually(t, "io_uring is used with --transport "+transport, said)
	}
	if _, _, said := mountTransport(t, hier, "classic"); said() {
		t.Error("io_uring is used with --transport classic")
	}
	for _, command := range []string{"mount --boundary /", "run --"} {
		args := append(strings.Fields(command)[:1], "--transport", "fast")
		args = append(args, strings.Fields(command)[1:]...)
		out, err := exec.Command(kit.Program(t), append(args, "/tmp")...).CombinedOutput()
		if want := `unknown transport "fast"; allowed: auto, classic, io_uring`; err == nil ||
			!strings.Contains(string(out), want) {
			t.Errorf("%s: %v, %s; want %s", command, err, out, want)
		}
	}
}

// TestTransportNotOffered: where the kernel does not offer io_uring, asking for it is an error and auto is not.
func TestTransportNotOffered(t *testing.T) {
	hier := kit.NeedHierarchy(t, kit.OpenHost(t), "pids")
	if on, err := os.ReadFile(conn.URingParameter); err == nil && on[0] == 'Y' {
		t.Skip("machine: FUSE over io_uring is switched on, maybe by another test")
	}
	got := kit.RunCommand(t, "run", "--transport", "io_uring", "--", "true")
	if want := "cannot use io_uring: the kernel does not offer FUSE over io_uring"; got.Status != 125 ||
		!strings.Contains(got.Stderr, want) {
		t.Errorf("run: %+v; want 125 and %q", got, want)
	}
	if _, _, said := mountTransport(t, hier, "auto"); said() {
		t.Error("io_uring is used with --transport auto")
	}
}

// TestTransportKilled: whoever waits for an answer of a killed server gets an error, and at once.
func TestTransportKilled(t *testing.T) {
	hier := kit.NeedHierarchy(t, kit.OpenHost(t), "pids")
	enableURing(t)
	top, pid, _ := mountTransport(t, hier, "io_uring")
	var running, ended sync.WaitGroup
	var stop atomic.Bool
	for i := range 8 {
		running.Add(1)
		ended.Go(func() {
			for once := sync.OnceFunc(running.Done); ; once() {
				err := unix.Mkdir(top+"/k"+strconv.Itoa(i), 0o755)
				if err == nil {
					err = unix.Rmdir(top + "/k" + strconv.Itoa(i))
				}
				if conn.IsDead(err) {
					once()
					return
				}
				if stop.Load() {
					t.Errorf("still served: %v", err)
					return
				}
			}
		})
	}
	running.Wait()
	unix.Kill(pid, unix.SIGKILL)
	time.AfterFunc(10*time.Second, func() { stop.Store(true) })
	ended.Wait()
}
