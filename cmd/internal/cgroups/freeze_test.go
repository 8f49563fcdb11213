package cgroups

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// busy starts a process that works all the time.
func (p *playground) busy() *guestProcess {
	p.t.Helper()
	return p.start(exec.Command("sh", "-c", "while :; do :; done"))
}

// worked is how long a process was on a processor, in nanoseconds.
func (g *guestProcess) worked(t *testing.T) string {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/schedstat", g.pid()))
	if err != nil {
		t.Fatal(err)
	}
	nsec, _, _ := strings.Cut(string(raw), " ")
	return nsec
}

// wantWorks waits until a process works, wantStopped looks for a while whether it does not.
func (g *guestProcess) wantWorks(t *testing.T, when string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if before := g.worked(t); !await(ctx, func() bool { return g.worked(t) != before }) {
		t.Errorf("it does not run %s", when)
	}
}

func (g *guestProcess) wantStopped(t *testing.T, when string) {
	t.Helper()
	before := g.worked(t)
	time.Sleep(50 * time.Millisecond)
	if g.worked(t) != before {
		t.Errorf("it runs %s", when)
	}
}

func wantKind(t *testing.T, err error, kind fault.Kind, words string) {
	t.Helper()
	if err == nil || fault.Of(err) != kind || !strings.Contains(err.Error(), words) {
		t.Errorf("%v: want an error %s that says %q", err, kind.Code(), words)
	}
}

func TestFreeze(t *testing.T) {
	for name, controllers := range map[string][]string{
		"v1": {"freezer"}, "v2": {hierarchy.Unified}, "both": {"freezer", hierarchy.Unified},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlayground(t, controllers...)
			g := p.busy()
			for tree := range p.hierarchies {
				p.create(tree, "/a")
				p.put(tree, "/a", g.pid())
			}
			g.wantWorks(t, "at first")
			p.must(Freeze(context.Background(), p.bs))
			g.wantStopped(t, "while it is frozen")
			if !FiguresOf(p.bs).Frozen {
				t.Error("the figures do not say frozen")
			}
			p.must(Freeze(context.Background(), p.bs))
			p.must(Thaw(context.Background(), p.bs))
			g.wantWorks(t, "when it is thawed")
			if FiguresOf(p.bs).Frozen {
				t.Error("the figures say frozen")
			}
			p.must(Thaw(context.Background(), p.bs))
			p.must(Freeze(context.Background(), p.bs))
			p.must(Kill(context.Background(), p.bs))
			g.wait(t)
			if FiguresOf(p.bs).Frozen || CountProcesses(p.bs) != 0 {
				t.Error("it is frozen, or has processes, after the kill")
			}
		})
	}
}

// TestFreezeInTime: a task that does not stop. One that v1 has frozen never freezes for v2.
func TestFreezeInTime(t *testing.T) {
	p := v1Playground(t, "freezer")
	v2 := newPlayground(t, hierarchy.Unified)
	g := p.sleep()
	p.put(0, "", g.pid())
	v2.put(0, "", g.pid())
	p.must(Freeze(context.Background(), p.bs))
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	wantKind(t, Freeze(ctx, v2.bs), fault.Failed, "did not stop in time")
	v2.want(0, "", "cgroup.freeze", "0")
	ctx, cancel = context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	wantKind(t, Kill(ctx, v2.bs), fault.Failed, "1 are there still")
	p.must(Thaw(context.Background(), p.bs))
	g.wait(t)
}

// TestThawBelowFrozen: what a cgroup above the boundary has frozen cannot be thawed here.
func TestThawBelowFrozen(t *testing.T) {
	p := v1Playground(t, "freezer")
	p.must(p.hierarchies[0].WriteFile(p.top, "freezer.state", "FROZEN"))
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	wantKind(t, Thaw(ctx, p.bs), fault.Failed, "a cgroup above is")
	p.must(p.hierarchies[0].WriteFile(p.top, "freezer.state", "THAWED"))
}

func TestFreezeUnsupported(t *testing.T) {
	p := v1Playground(t, "pids")
	wantKind(t, Freeze(context.Background(), p.bs), fault.Unsupported, "freezer")
	wantKind(t, Thaw(context.Background(), p.bs), fault.Unsupported, "freezer")
}

// TestKill: processes at several places, one that forks and one outside, which stays.
func TestKill(t *testing.T) {
	for _, controller := range []string{"pids", "freezer", hierarchy.Unified} {
		t.Run(controller, func(t *testing.T) {
			p := newPlayground(t, controller)
			outside, a, b := p.sleep(), p.sleep(), p.sleep()
			p.create(0, "/x/y")
			p.must(p.hierarchies[0].Create(p.top+"/outside", 0o755))
			p.must(p.hierarchies[0].Attach(p.top+"/outside", outside.pid()))
			p.put(0, "/x", a.pid())
			p.put(0, "/x/y", b.pid())
			forks := p.start(exec.Command("sh", "-c", "read go; while :; do sleep 600 & sleep 0.001; done"))
			p.put(0, "/x", forks.pid())
			forks.in.Write([]byte("\n"))
			time.Sleep(30 * time.Millisecond)
			p.must(Kill(context.Background(), p.bs))
			for _, g := range []*guestProcess{a, b, forks} {
				g.wait(t)
			}
			if !outside.alive() {
				t.Error("a process outside the boundary was killed")
			}
			p.must(Kill(context.Background(), p.bs))
		})
	}
}

// TestOwn: neither the caller nor its parent is stopped. The test's own process is moved for that, and back.
func TestOwn(t *testing.T) {
	p := newPlayground(t, hierarchy.Unified)
	at, err := p.hierarchies[0].PathOf(os.Getpid())
	p.must(err)
	p.put(0, "", os.Getpid())
	defer func() { p.must(p.hierarchies[0].Attach(at, os.Getpid())) }()
	for verb, f := range map[string]func() error{
		"freeze": func() error { return Freeze(context.Background(), p.bs) },
		"thaw":   func() error { return Thaw(context.Background(), p.bs) },
		"kill":   func() error { return Kill(context.Background(), p.bs) },
	} {
		wantKind(t, f(), fault.Conflict, "cannot "+verb+" the guest: process")
	}
	// And the one below it leaves the caller out, should anybody ask it.
	g := p.sleep()
	p.put(0, "", g.pid())
	p.bs[0].Kill()
	g.wait(t)
}
