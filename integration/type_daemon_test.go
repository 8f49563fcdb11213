package integration

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// typeLoop asks for the type of a view from several threads, again and again, by path and by descriptor.
type typeLoop struct {
	stop     chan struct{}
	all      sync.WaitGroup
	asked    [typeThreads]atomic.Uint64
	failed   atomic.Uint64 // calls that were in flight when a worker died, on kernels that cannot send them again
	tolerant bool

	once sync.Once

	mu    sync.Mutex
	wrong map[string]int // guarded by mu
}

const typeThreads = 8

func startTypeLoop(t *testing.T, dir string, want int64, tolerant bool) *typeLoop {
	t.Helper()
	l := &typeLoop{stop: make(chan struct{}), tolerant: tolerant, wrong: map[string]int{}}
	for i := range typeThreads {
		fd, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		l.all.Go(func() {
			defer unix.Close(fd)
			for {
				select {
				case <-l.stop:
					return
				default:
				}
				l.ask(i, dir, fd, want)
			}
		})
	}
	return l
}

func (l *typeLoop) ask(i int, dir string, fd int, want int64) {
	var st unix.Statfs_t
	var err error
	if i%2 == 0 {
		err = unix.Statfs(dir, &st)
	} else {
		err = unix.Fstatfs(fd, &st)
	}
	l.asked[i].Add(1)
	if l.tolerant && (errors.Is(err, unix.ECONNABORTED) || errors.Is(err, unix.EINTR)) {
		l.failed.Add(1)
		return
	}
	if err != nil || st.Type != want {
		l.mu.Lock()
		l.wrong[fmt.Sprintf("%#x, %v", st.Type, err)]++
		l.mu.Unlock()
	}
}

// progress waits until each thread was answered again.
func (l *typeLoop) progress(t *testing.T, after string) {
	t.Helper()
	for i := range l.asked {
		before := l.asked[i].Load()
		for deadline := time.Now().Add(kit.Patience); l.asked[i].Load() < before+2; time.Sleep(2 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: thread %d hangs in statfs", after, i)
			}
		}
	}
}

// halt ends the threads.
func (l *typeLoop) halt() {
	l.once.Do(func() { close(l.stop) })
	l.all.Wait()
}

func (l *typeLoop) end(t *testing.T) {
	t.Helper()
	l.halt()
	total := uint64(0)
	for i := range l.asked {
		total += l.asked[i].Load()
	}
	t.Logf("%d calls of %d threads, %d aborted with their worker; wrong: %v", total, typeThreads, l.failed.Load(), l.wrong)
	if len(l.wrong) > 0 {
		t.Errorf("wrong answers: %v", l.wrong)
	}
}

// TestTypeSurvives: neither the death of the worker, nor 20 upgrades, nor the death of holder and worker under a
// service manager has statfs of a view say another type for a moment; after the stop nothing is left in the kernel.
func TestTypeSurvives(t *testing.T) {
	kit.NeedType(t)
	before := kit.TypePrograms()
	m := kit.NewServiceManager(t)
	d := kit.StartDaemonWith(t, kit.Program(t), nil, "NOTIFY_SOCKET="+m.Path)
	p := kit.NewPlace(t, d, "typed")
	d.WantTry(t, 0, "", p.Add("web")...)
	want := kit.NativeType(p.Hierarchy)
	kit.WantType(t, p.At("."), want)
	loop := startTypeLoop(t, p.At("."), want, !d.Ready(t).Resend)
	t.Cleanup(loop.halt)
	for range kit.Scaled(t, 20, 4) {
		pid := d.Signal(t, unix.SIGKILL, 0)
		kit.Eventually(t, "another worker to answer", func() bool { return d.Ready(t).Pid != pid })
		loop.progress(t, "after the death of the worker")
	}
	for range 20 {
		d.Run(t, "serve", "--upgrade")
	}
	loop.progress(t, "after upgrades")

	ids := fmt.Sprint(kit.TypePrograms())
	_, worker := d.Worker(t)
	defer unix.Close(worker)
	d.Cmd.Process.Kill()
	<-d.Ended
	unix.PidfdSendSignal(worker, unix.SIGKILL, nil, 0)
	if !kit.HasEnded(worker, kit.Patience) {
		t.Fatal("the worker is still there")
	}
	next := m.Restart(t, d)
	next.Ready(t)
	loop.progress(t, "after the death of holder and worker")
	if now := fmt.Sprint(kit.TypePrograms()); now != ids {
		t.Errorf("the holder goes on with %s, not with %s", now, ids)
	}
	// A guest that is made by the new holder is answered for by the old map.
	q := kit.NewPlace(t, next, "typed2")
	next.WantTry(t, 0, "", q.Add("second")...)
	kit.WantType(t, q.At("."), want)
	loop.progress(t, "with a second guest")
	loop.end(t)
	next.Stop(t)
	kit.WantNoPrograms(t, before)
	m.Mu.Lock()
	defer m.Mu.Unlock()
	for name := range m.Stored {
		if strings.HasPrefix(name, "type-") {
			t.Errorf("the manager still has %s", name)
		}
	}
}

// TestTypeDaemon: run and mount use the daemon's programs; self is no view; what is switched off says FUSE; doctor
// says all that.
func TestTypeDaemon(t *testing.T) {
	kit.NeedType(t)
	before := kit.TypePrograms()
	d := kit.StartSelfDaemon(t)
	hier := kit.NeedHierarchy(t, kit.OpenHost(t), "pids")
	want := fmt.Sprintf("%x", kit.NativeType(hier))
	loaded := len(kit.TypePrograms())
	if loaded == len(before) {
		t.Fatalf("no program is loaded: %s", d.Log())
	}
	kit.WantType(t, d.Self(), unix.FUSE_SUPER_MAGIC)
	ask := "stat -f -c %t " + kit.TopOf("/sys/fs/cgroup", hier) + "; read x"
	cmd := exec.Command(kit.Program(t), "run", "--controllers", "pids", "--", "sh", "-c", ask)
	cmd.Env = append(os.Environ(), "VCGROUPFS_SOCKET="+d.Socket)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	says, _ := bufio.NewReader(out).ReadString('\n')
	if got := len(kit.TypePrograms()); strings.TrimSpace(says) != want || got != loaded {
		t.Errorf("run says %q, want %s; %d programs, %d before", says, want, got, loaded)
	}
	d.WantTry(t, 0, "the daemon answers, for run and mount too", "doctor")
	in.Close()
	cmd.Wait()
	t.Run("mount", func(t *testing.T) {
		t.Setenv("VCGROUPFS_SOCKET", d.Socket)
		v := kit.MountView(t, "--boundary", kit.NewBoundary(t, "asks", hier), "--controllers", "pids")
		kit.WantType(t, v.Top(hier), kit.NativeType(hier))
		if got := len(kit.TypePrograms()); got != loaded {
			t.Errorf("%d programs, %d before", got, loaded)
		}
	})
	d.Stop(t)
	kit.WantNoPrograms(t, before)

	off := kit.StartDaemonWith(t, kit.Program(t), []string{"--no-bpf"})
	p := kit.NewPlace(t, off, "off")
	off.WantTry(t, 0, "", p.Add("web")...)
	kit.WantType(t, p.At("."), unix.FUSE_SUPER_MAGIC)
	off.WantTry(t, 0, "it is switched off (serve --no-bpf)", "doctor")
	kit.WantNoPrograms(t, before)
	off.Stop(t)
}

// TestTypeKilled: programs of run and mount end with the process, however it ends.
func TestTypeKilled(t *testing.T) {
	kit.NeedType(t)
	before := kit.TypePrograms()
	hier := kit.NeedHierarchy(t, kit.OpenHost(t), "pids")
	path := kit.NewBoundary(t, "killed", hier)
	dir := kit.PublicDir(t)
	cmd := exec.Command(kit.Program(t), "mount", "--boundary", path, "--controllers", "pids", dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kit.Eventually(t, "the view", func() bool { return kit.IsFUSE(dir) })
	kit.WantType(t, kit.TopOf(dir, hier), kit.NativeType(hier))
	cmd.Process.Kill()
	cmd.Wait()
	unix.Unmount(dir, unix.MNT_DETACH)
	kit.WantNoPrograms(t, before)
}
