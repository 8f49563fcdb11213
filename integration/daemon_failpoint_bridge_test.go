package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// serve adds the site as a guest of a daemon.
func (s *bridgeSite) serve(t *testing.T, d *kit.Daemon, more ...string) *bridgeSite {
	t.Helper()
	s.view = kit.PublicDir(t)
	t.Cleanup(func() { d.Stop(t) }) // before the directory goes
	d.Mounts[s.view] = true
	d.Run(t, append([]string{"guest", "add", "bridge", "--boundary", s.path, "--controllers", s.controllers, "--layout", "v1", "--target", s.view}, more...)...)
	return s
}

// armedDaemon is a daemon whose workers die at a point, once each time that it is armed: the file that counts the deaths can be
// made only where its directory is.
type armedDaemon struct {
	*kit.Daemon
	dir string
}

func startArmed(t *testing.T, point string) *armedDaemon {
	t.Helper()
	a := &armedDaemon{dir: filepath.Join(t.TempDir(), "armed")}
	a.Daemon = kit.StartDaemonOf(t, kit.FailpointProgram(t), "VCGROUPFS_FAILPOINT="+point+":1", "VCGROUPFS_FAILPOINT_FILE="+a.deaths())
	return a
}

func (a *armedDaemon) deaths() string { return filepath.Join(a.dir, "deaths") }

func (a *armedDaemon) arm(t *testing.T) {
	t.Helper()
	if err := os.Mkdir(a.dir, 0o755); err != nil {
		t.Fatal(err)
	}
}

// disarm reports whether a worker came to the point since arm.
func (a *armedDaemon) disarm(t *testing.T) bool {
	t.Helper()
	died := kit.Exists(a.deaths())
	if err := os.RemoveAll(a.dir); err != nil {
		t.Fatal(err)
	}
	return died
}

// crossedStep is an operation in several hierarchies: what the view answers, and what the model does.
type crossedStep struct {
	what, got, want string
}

// bridgeCrossings are operations of each kind that a bridge does. The processes begin in the boundary.
func (m *bridgeModel) crossings(a, b int) (steps []func() crossedStep) {
	s := m.s
	limited, one := s.names[0], s.names[1]
	add := func(what string, do func() string, model func() string) {
		steps = append(steps, func() crossedStep { return crossedStep{what, do(), model()} })
	}
	mkdir := func(hier, path string) {
		add("mkdir "+hier+"/"+path, func() string { return kit.Word(unix.Mkdir(s.at(hier, path), 0o755)) }, func() string { return m.mkdir(hier, path) })
	}
	rmdir := func(hier, path string) {
		add("rmdir "+hier+"/"+path, func() string { return kit.Rmdir(s.at(hier, path)) }, func() string { return m.rmdir(hier, path) })
	}
	move := func(hier, path string, pid int) {
		add("move to "+hier+"/"+path, func() string { return kit.WriteFile(s.at(hier, path, "tasks"), strconv.Itoa(pid)) },
			func() string { return m.move(hier, path, pid) })
	}
	set := func(hier, path, file, value string, model func(p *modelPart)) {
		add(value+" to "+hier+"/"+path+"/"+file, func() string { return kit.WriteFile(s.at(hier, path, file), value) }, func() string {
			model(m.find(hier, path).part(hier))
			return "ok"
		})
	}
	mkdir(limited, "x") // a new cgroup, in one with processes
	mkdir(one, "x")     // a cgroup that is there
	add("chown", func() string { return kit.Word(os.Chown(s.at(one, "x"), 1, 1)) }, func() string { m.find(one, "x").part(one).owner = 1; return "ok" })
	add("setxattr", func() string {
		return kit.Word(unix.Setxattr(s.at(one, "x"), crossedAttr, []byte("7"), unix.XATTR_CREATE))
	},
		func() string { m.find(one, "x").part(one).attr = "7"; return "ok" })
	for _, flag := range modelFlags {
		set(one, "x", flag, "1", func(p *modelPart) { p.flags[flag] = "1" })
	}
	mkdir(one, "x/y") // with flags of its parent
	move(limited, "x", a)
	move(one, "x", b)
	mkdir(limited, "x/y")
	mkdir(limited, "x/z") // below one with processes
	set(limited, "x", s.limit, s.values[0], func(p *modelPart) { p.limit = s.values[0] })
	set(limited, "x/y", s.limit, s.values[1], func(p *modelPart) { p.limit = s.values[1] })
	rmdir(limited, "x/z") // the last one
	rmdir(limited, "x/y") // not the last one, with a limit
	rmdir(one, "x")       // refused
	rmdir(one, "x/y")
	move(one, "", a)
	move(limited, "", b)
	rmdir(one, "x") // with an owner, flags and an attribute
	mkdir(one, "x")
	rmdir(limited, "x")
	rmdir(one, "x")
	return steps
}

// translatedCrossings are writes that change several files of the host, or keep something, where the kernel's v2 has the files.
func (s *bridgeSite) translatedCrossings() (steps []func() crossedStep) {
	if s.names[0] != "memory" {
		return nil
	}
	add := func(what, want string, do func() string) {
		steps = append(steps, func() crossedStep { return crossedStep{what, do(), want} })
	}
	mkdir := func(path string) {
		add("mkdir "+path, "ok", func() string { return kit.Word(unix.Mkdir(s.at(path), 0o755)) })
	}
	rmdir := func(path string) { add("rmdir "+path, "ok", func() string { return kit.Rmdir(s.at(path)) }) }
	put := func(path, value, want string) {
		add(value+" to "+path, want, func() string { return kit.WriteFile(s.at(path), value) })
	}
	has := func(path, want string) {
		add(path, want, func() string { return strings.TrimSpace(kit.ReadFile(s.at(path))) })
	}
	const limit, memsw, shares = "memory/m/memory.limit_in_bytes", "memory/m/memory.memsw.limit_in_bytes", "cpu,cpuacct/m/cpu.shares"
	mkdir("memory/m")
	mkdir("cpu,cpuacct/m")
	put(limit, "67108864", "ok")
	if kit.Exists(s.real("memory.swap.max")) {
		put(memsw, "134217728", "ok")
		put(limit, "33554432", "ok") // memory.max first, and then memory.swap.max
		has(memsw, "134217728")
		put(limit, "100663296", "ok") // the other way round
		has(memsw, "134217728")
		put(limit, "134221824", "EINVAL")
		has(limit, "100663296")
	}
	put(shares, "512", "ok")
	has(shares, "512")
	put("cpu,cpuacct/m/cpu.cfs_quota_us", "50000", "ok")
	put("cpu,cpuacct/m/cpu.cfs_period_us", "200000", "ok")
	put("cpu,cpuacct/m/cpuacct.usage", "0", "ok")
	put("memory/m/memory.soft_limit_in_bytes", "1048576", "ok")
	put("memory/m/memory.max_usage_in_bytes", "0", "ok")
	has("memory/m/memory.soft_limit_in_bytes", "1048576")
	rmdir("memory/m")
	add("the host's limits", "max max", func() string {
		return strings.Join(strings.Fields(kit.ReadFile(s.real("m/memory.max"))+kit.ReadFile(s.real("m/memory.swap.max"))), " ")
	})
	has("cpu,cpuacct/m/cpu.cfs_quota_us", "50000")
	mkdir("memory/m")
	has("memory/m/memory.soft_limit_in_bytes", nolim)
	rmdir("cpu,cpuacct/m")
	add("the host's weight", "100", func() string { return strings.TrimSpace(kit.ReadFile(s.real("m/cpu.weight"))) })
	mkdir("cpu,cpuacct/m")
	has(shares, "1024")
	rmdir("memory/m")
	rmdir("cpu,cpuacct/m")
	return steps
}

// bridgePoints are the points that some of the crossings come to.
const bridgePoints = "bridge-written bridge-mkdir bridge-kept bridge-reset bridge-enabled " +
	"bridge-owned mkdir-made rmdir-made bridge-rmdir bridge-vacated mkdir-begun mkdir-done rmdir-begun rmdir-done " +
	"bridge-moved bridge-write write-begun write-made write-done setxattr-made"

// TestBridgeFailPoints kills the worker at each point of each operation: the next worker answers, and the guest sees that all of
// the operation is done, once, and nothing else.
func TestBridgeFailPoints(t *testing.T) {
	points := strings.Fields(bridgePoints)
	if kit.Scale(t) < 1 {
		points = points[:1] // a daemon for each takes long where processors are emulated
	}
	for _, point := range points {
		t.Run(point, func(t *testing.T) {
			t.Parallel() // most of it is waiting
			s := newBridgeSite(t, t.Name())
			d := startArmed(t, point)
			resend := d.Ready(t).Resend
			s.serve(t, d.Daemon)
			a, b := s.sleeper(t), s.sleeper(t)
			m := newBridgeModel(s, a, b)
			died := 0
			modelled := m.crossings(a, b)
			for i, step := range append(slices.Clip(modelled), s.translatedCrossings()...) {
				d.arm(t)
				did := step()
				crossed := d.disarm(t)
				if crossed {
					died++
				}
				// Before Linux 6.9 it is done, and its caller is told that it was aborted.
				aborted := crossed && !resend && did.got == "ECONNABORTED"
				if aborted {
					kit.ReadFile(s.at(s.names[0], kit.Procs)) // a request that the next worker has answered
				}
				if did.got != did.want && !aborted {
					t.Errorf("%s: %s, want %s", did.what, did.got, did.want)
				}
				if !crossed || i >= len(modelled) {
					continue
				}
				if wrong := m.checkAll(); len(wrong) > 0 {
					t.Fatalf("after %s: %s", did.what, strings.Join(wrong, "\n"))
				}
			}
			if died == 0 {
				t.Error("no worker came to the point")
			}
			t.Logf("%d workers died", died)
			s.leaves(t)
			if left := kit.CgroupsIn(s.real()); len(left) > 1 {
				t.Errorf("the host has %q", left)
			}
		})
	}
}

// TestBridgeFailPointsTogether kills the worker while two programs change the same path in two hierarchies.
func TestBridgeFailPointsTogether(t *testing.T) {
	points := strings.Fields("mkdir-done bridge-mkdir rmdir-made bridge-rmdir")
	for _, point := range points[:kit.Scaled(t, len(points), 1)] {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			s := newBridgeSite(t, t.Name())
			d := startArmed(t, point)
			if !d.Ready(t).Resend {
				t.Skip("kernel: before 6.9 it aborts what a dead worker had in its hands, begun or not")
			}
			s.serve(t, d.Daemon)
			one, two := s.names[1], s.names[2]
			both := func(what string, first, second func() string) {
				t.Helper()
				d.arm(t)
				var got string
				var wg sync.WaitGroup
				wg.Go(func() { got = second() })
				if got := first(); got != "ok" {
					t.Errorf("%s: the first got %s", what, got)
				}
				wg.Wait()
				if got != "ok" {
					t.Errorf("%s: the second got %s", what, got)
				}
				d.disarm(t)
			}
			mkdir := func(hier, name string) func() string {
				return func() string { return kit.Word(unix.Mkdir(s.at(hier, name), 0o755)) }
			}
			rmdir := func(hier, name string) func() string { return func() string { return kit.Rmdir(s.at(hier, name)) } }
			want := func(name, in string) {
				t.Helper()
				var has []string
				for _, hier := range s.names {
					if kit.Exists(s.at(hier, name)) {
						has = append(has, hier)
					}
				}
				if got := strings.Join(has, " "); got != in {
					t.Errorf("%s is in %q, want %q", name, got, in)
				}
			}
			for i := range kit.Scaled(t, 8, 2) {
				name := fmt.Sprint("c", i)
				both("two mkdirs", mkdir(one, name), mkdir(two, name))
				want(name, one+" "+two)
				both("rmdir and mkdir", rmdir(one, name), mkdir(s.names[0], name))
				want(name, s.names[0]+" "+two)
				both("two rmdirs", rmdir(two, name), rmdir(s.names[0], name))
				want(name, "")
			}
			s.leaves(t)
		})
	}
}
