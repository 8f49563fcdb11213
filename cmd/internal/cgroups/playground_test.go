package cgroups

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// roleVariable makes the test binary a process of a guest.
const roleVariable = "VCGROUPFS_CGROUPS_TEST_ROLE"

// allocatorBytes is how much the role "allocate" takes.
const allocatorBytes = 64 << 20

func init() {
	switch os.Getenv(roleVariable) {
	case "":
		return
	case "allocate": // once it is told to
		fmt.Println("ready")
		bufio.NewReader(os.Stdin).ReadString('\n')
		mem := make([]byte, allocatorBytes)
		for i := 0; i < len(mem); i += 4096 {
			mem[i] = 1
		}
		fmt.Println("survived", len(mem))
	}
	os.Exit(0)
}

// playground is a guest with a boundary in some hierarchies. It runs nothing at first.
type playground struct {
	t           testing.TB
	hierarchies []*host.Hierarchy
	top         string
	bs          []*host.Boundary
}

// newPlayground makes a guest in the hierarchies that have these controllers, "unified" for v2.
func newPlayground(t testing.TB, controllers ...string) *playground {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("machine: not root")
	}
	h, err := host.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	p := &playground{t: t, top: fmt.Sprintf("/vcgroupfs-test-%d-%s", os.Getpid(), strings.ReplaceAll(t.Name(), "/", "-"))}
	for _, c := range controllers {
		hier := h.Hierarchy(c)
		if hier == nil {
			t.Skipf("machine: its cgroups have no %s", c)
		}
		p.add(hier, c)
	}
	return p
}

// v1Playground is newPlayground for what only v1 has.
func v1Playground(t testing.TB, controllers ...string) *playground {
	t.Helper()
	p := newPlayground(t, controllers...)
	for _, hier := range p.hierarchies {
		if hier.Version != hierarchy.V1 {
			t.Skip("machine: these controllers are not on v1: " + strings.Join(controllers, ", "))
		}
	}
	return p
}

func (p *playground) add(hier *host.Hierarchy, controller string) {
	p.t.Helper()
	for _, have := range p.hierarchies {
		if have == hier {
			return
		}
	}
	p.t.Cleanup(func() {
		hier.Kill(p.top) // what a test's process has left
		if err := hier.RemoveAll(p.top); err != nil {
			p.t.Errorf("cannot clean up: %v", err)
		}
	})
	p.must(hier.Create(p.top+"/guest", 0o755))
	if hier.Version == hierarchy.V2 && controller != hierarchy.Unified {
		p.must(hier.Enable(p.top+"/guest/x", controller))
	}
	b, err := hier.Boundary(p.top + "/guest")
	p.must(err)
	p.t.Cleanup(b.Close)
	p.hierarchies, p.bs = append(p.hierarchies, hier), append(p.bs, b)
}

func (p *playground) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

// create makes a cgroup of the guest in one of its hierarchies.
func (p *playground) create(tree int, dir string) {
	p.t.Helper()
	p.must(p.hierarchies[tree].Create(p.top+"/guest"+dir, 0o755))
}

func (p *playground) set(tree int, dir, file, value string) {
	p.t.Helper()
	p.must(p.hierarchies[tree].WriteFile(p.top+"/guest"+dir, file, value))
}

func (p *playground) get(tree int, dir, file string) string {
	p.t.Helper()
	text, err := p.hierarchies[tree].ReadFile(p.top+"/guest"+dir, file)
	p.must(err)
	return strings.TrimSpace(text)
}

// put moves a process that the test started.
func (p *playground) put(tree int, dir string, pid int) {
	p.t.Helper()
	p.must(p.hierarchies[tree].Attach(p.top+"/guest"+dir, pid))
}

// guestProcess is a process that the test has started.
type guestProcess struct {
	*exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
	done chan struct{} // closed when it has ended
}

// start starts a command; it ends with the test at the latest, before the cgroups are removed.
func (p *playground) start(cmd *exec.Cmd) *guestProcess {
	p.t.Helper()
	g := &guestProcess{Cmd: cmd, done: make(chan struct{})}
	var err error
	g.in, err = cmd.StdinPipe()
	p.must(err)
	out, err := cmd.StdoutPipe()
	p.must(err)
	g.out = bufio.NewReader(out)
	p.must(cmd.Start())
	ended := make(chan struct{})
	go func() {
		unix.Waitid(unix.P_PID, cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		close(ended)
	}()
	g.done = ended
	p.t.Cleanup(func() {
		for i, hier := range p.hierarchies { // a frozen one would not go
			if hier.Version == hierarchy.V1 && hier.Holds("freezer") {
				p.set(i, "", "freezer.state", "THAWED")
			}
		}
		g.in.Close()
		cmd.Process.Kill()
		cmd.Wait()
	})
	return g
}

func (p *playground) sleep() *guestProcess {
	p.t.Helper()
	return p.start(exec.Command("sleep", "600"))
}

// alive says whether the process is there and no zombie.
func (g *guestProcess) alive() bool {
	select {
	case <-g.done:
		return false
	default:
		return true
	}
}

// wait waits until it has ended.
func (g *guestProcess) wait(t testing.TB) {
	t.Helper()
	select {
	case <-g.done:
	case <-time.After(20 * time.Second):
		t.Fatal("the process does not end")
	}
}

func (g *guestProcess) pid() int { return g.Process.Pid }
