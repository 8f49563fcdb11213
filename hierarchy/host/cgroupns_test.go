package host

import (
	"errors"
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestNamespaceRoot: where a cgroup namespace begins is told from a process that is anywhere below, and not from one that was
// moved out.
func TestNamespaceRoot(t *testing.T) {
	inHierarchies(t, func(t *testing.T, p *playground) {
		pid := startInNamespace(t, func(pid int) { p.put(t, "/guest", pid) })
		root := func() (string, error) {
			n, err := CgroupNamespaceOf(pid)
			if err != nil {
				t.Fatal(err)
			}
			return n.Root(p.hier.Hierarchy)
		}
		for _, at := range []string{"/guest", "/guest/a"} {
			p.put(t, at, pid)
			if got, err := root(); got != p.top+"/guest" || err != nil {
				t.Errorf("in %s: the namespace begins at %q, %v", at, got, err)
			}
		}
		p.put(t, "/sibling", pid)
		if got, err := root(); !errors.Is(err, unix.ENOENT) {
			t.Errorf("moved out: the namespace begins at %q, %v; want ENOENT", got, err)
		}
	})
}

// TestNamespaceRootOfMover: a process that moves to and fro between two cgroups of its namespace, whose names are alike, does not make the
// namespace begin above its root.
func TestNamespaceRootOfMover(t *testing.T) {
	inHierarchies(t, func(t *testing.T, p *playground) {
		if err := p.hier.Create(p.top+"/guest/a/a", 0o755); err != nil {
			t.Fatal(err)
		}
		pid := startInNamespace(t, func(pid int) { p.put(t, "/guest/a", pid) })
		stop, moved := make(chan struct{}), make(chan int)
		go func() {
			n := 0
			for {
				select {
				case <-stop:
					moved <- n
					return
				default:
				}
				_ = p.hier.Attach(p.top+[]string{"/guest/a/a", "/guest/a"}[n%2], pid)
				n++
			}
		}()
		told := 0
		for range 300 {
			n, err := CgroupNamespaceOf(pid)
			if errors.Is(err, unix.EAGAIN) {
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			got, err := n.Root(p.hier.Hierarchy)
			if err == nil && got != p.top+"/guest/a" {
				t.Errorf("the namespace begins at %q", got)
				break
			}
			if err == nil {
				told++
			}
		}
		close(stop)
		if n := <-moved; n < 2 || told == 0 {
			t.Errorf("moved %d times, told %d times", n, told)
		}
	})
}

func TestOwnNamespace(t *testing.T) {
	if _, err := CgroupNamespaceOf(os.Getpid()); !errors.Is(err, ErrOwnNamespace) {
		t.Errorf("of the server itself: %v", err)
	}
	if _, err := CgroupNamespaceOf(1 << 22); !errors.Is(err, unix.ESRCH) {
		t.Errorf("of no process: %v", err)
	}
	before, err := os.Readlink("/proc/thread-self/ns/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	pid := startInNamespace(t, func(int) {})
	for range 50 {
		if _, err := CgroupNamespaceOf(pid); err != nil {
			t.Fatal(err)
		}
	}
	elsewhere := func() (threads []string) {
		tasks, err := os.ReadDir("/proc/self/task")
		if err != nil {
			t.Fatal(err)
		}
		for _, task := range tasks {
			if ns, err := os.Readlink("/proc/self/task/" + task.Name() + "/ns/cgroup"); err == nil && ns != before {
				threads = append(threads, task.Name())
			}
		}
		return threads
	}
	// A thread that has looked ends a moment after its answer.
	for deadline := time.Now().Add(10 * time.Second); len(elsewhere()) > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the threads %v are in the other namespace", elsewhere())
		}
	}
}

func FuzzNamespaceRoot(f *testing.F) {
	for _, s := range [][2]string{{"/a/b", "/b"}, {"/a", "/"}, {"/", "/"}, {"/a/b", "/../b"}, {"/../x", "/"}, {"/ab", "/b"}, {"/a/a", "/a"}, {"", ""}, {"/a", "a"}, {"/a/../b", "/b"}, {"/a/./b", "/b"}, {"//a", "/a"}, {"/a/", "/"}, {"//0/b", "/b"}} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, at, below string) {
		root, err := namespaceRoot(at, below)
		if err != nil {
			return
		}
		if _, ok := pathBelow(root, at); !ok {
			t.Errorf("the root of %q that sees %q is %q", at, below, root)
		}
	})
}

// startInNamespace starts a process, has it placed, and gives it a cgroup namespace of its own there.
func startInNamespace(t *testing.T, place func(pid int)) (pid int) {
	t.Helper()
	cmd := exec.Command("sh", "-c", "kill -STOP $$; exec unshare --cgroup sleep 3600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	pid = cmd.Process.Pid
	if _, err := unix.Wait4(pid, nil, unix.WUNTRACED, nil); err != nil {
		t.Fatal(err)
	}
	place(pid)
	if err := unix.Kill(pid, unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if _, err := CgroupNamespaceOf(pid); err == nil {
			return pid
		} else if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}
