package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// place is where a task is, counted from the boundary; "outside" when it is not below it.
func (x *traceEnv) place(pid int) string {
	path, err := x.hier.PathOf(pid)
	if err != nil {
		return kit.ErrnoName(err)
	}
	_, below, ok := strings.Cut(path, kit.Prefix)
	if !ok {
		return "outside"
	}
	_, rest, _ := strings.Cut(below, "/")
	rest = strings.TrimPrefix(rest, hierarchy.LeafName)
	return "/" + strings.TrimPrefix(rest, "/")
}

// moved is what a write of a pid answers, and where the task is after it.
func (x *traceEnv) moved(file string, pid int, text string) string {
	return kit.WriteFile(filepath.Join(x.dir, file), text) + " " + x.place(pid)
}

// memberSteps are about moving tasks (facts, section 7). None writes the number of a process that the trace did not start.
func memberSteps(hier *host.Hierarchy) []step {
	steps := []step{
		{"move: cpuset of the new cgroup", func(x *traceEnv) string {
			if hier.Version != hierarchy.V1 || !hier.Holds("cpuset") {
				return ""
			}
			s := kit.WriteFile(x.at(kit.Procs), strconv.Itoa(x.pid)) // ENOSPC while it is empty
			for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
				s += kit.WriteFile(x.at(f), kit.ReadFile(filepath.Join(x.dir, f)))
			}
			return s
		}},
		{"move: down", func(x *traceEnv) string { return x.moved("w/"+kit.Procs, x.pid, strconv.Itoa(x.pid)) }},
		{"move: to where it is", func(x *traceEnv) string { return x.moved("w/"+kit.Procs, x.pid, strconv.Itoa(x.pid)) }},
		{"move: what the file shows", func(x *traceEnv) string {
			return fmt.Sprint(strings.TrimSpace(kit.ReadFile(x.at(kit.Procs))) == strconv.Itoa(x.pid))
		}},
		{"move: rmdir while it is there", func(x *traceEnv) string { return kit.Rmdir(x.w) }},
		{"move: up", func(x *traceEnv) string { return x.moved(kit.Procs, x.pid, strconv.Itoa(x.pid)) }},
		{"move: what the boundary's file shows", func(x *traceEnv) string {
			return fmt.Sprint(slices.Contains(strings.Fields(kit.ReadFile(filepath.Join(x.dir, kit.Procs))), strconv.Itoa(x.pid)))
		}},
		{"move: a kernel thread", func(x *traceEnv) string {
			if name, _ := os.ReadFile("/proc/2/comm"); string(name) != "kthreadd\n" {
				return "EINVAL" // it is somebody's process here
			}
			return kit.WriteFile(x.at(kit.Procs), "2")
		}},
		{"move: a process that is outside", func(x *traceEnv) string {
			defer x.hier.Attach("/", x.outside)
			return kit.WriteFile(x.at(kit.Procs), strconv.Itoa(x.outside))
		}},
		{"move: a number that is nobody's", func(x *traceEnv) string { return kit.WriteFile(x.at(kit.Procs), "4194302") }},
		{"move: the writer", func(x *traceEnv) string {
			h := kit.StartHelper(x.t, "commands")
			if err := x.hier.Attach(strings.TrimPrefix(realPath(x), x.hier.Mountpoint), h.PID()); err != nil {
				return err.Error()
			}
			defer func() { h.Cmd.Process.Kill(); h.Cmd.Wait() }()
			return h.Tell(x.t, "write %q %q", x.at(kit.Procs), "0") + x.place(h.PID()) + h.Tell(x.t, "write %q %q", filepath.Join(x.dir, kit.Procs), "0\n") + x.place(h.PID())
		}},
		{"move: a zombie", func(x *traceEnv) string {
			cmd := exec.Command("sleep", "3600")
			if err := cmd.Start(); err != nil {
				return err.Error()
			}
			x.hier.Attach(strings.TrimPrefix(realPath(x), x.hier.Mountpoint), cmd.Process.Pid)
			cmd.Process.Kill()
			unix.Waitid(unix.P_PID, cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
			s := kit.WriteFile(x.at(kit.Procs), strconv.Itoa(cmd.Process.Pid))
			cmd.Wait()
			return s + kit.Rmdir(x.at("missing"))
		}},
	}
	for _, format := range []string{"0x%x", "0%o", "+%d", "  %d  ", "%d\n", "%d\n\n", "%d\x00junk", "%dx", "%[1]d %[1]d", "%d,", "1.%d", "-%d", "0x%xg", "%d\t"} {
		steps = append(steps, step{fmt.Sprintf("move: written as %q", format), func(x *traceEnv) string {
			return x.moved("w/"+kit.Procs, x.pid, fmt.Sprintf(format, x.pid)) + " " + x.moved(kit.Procs, x.pid, strconv.Itoa(x.pid))
		}})
	}
	for _, text := range []string{"", "\n", " ", "-1", "x", "99999999999999999999", "2147483648", "4294967296", "0x", "--1"} {
		steps = append(steps, step{fmt.Sprintf("move: written as %q", text), func(x *traceEnv) string { return kit.WriteFile(x.at(kit.Procs), text) }})
	}
	return slices.Concat(steps, threadSteps(hier), userSteps(), pieceSteps(), limitSteps())
}

// realPath is the host's own path of the boundary.
func realPath(x *traceEnv) string {
	path, err := x.hier.PathOf(x.pid)
	if err != nil {
		x.t.Fatal(err)
	}
	i := strings.Index(path, kit.Prefix)
	if i < 0 {
		x.t.Fatalf("the process is at %s", path)
	}
	end := strings.IndexByte(path[i:], '/')
	if end < 0 {
		return filepath.Join(x.hier.Mountpoint, path)
	}
	return filepath.Join(x.hier.Mountpoint, path[:i+end])
}

// threadSteps move one thread, and a process by the number of one of its threads.
func threadSteps(hier *host.Hierarchy) []step {
	file := "tasks"
	if hier.Version == hierarchy.V2 {
		file = "cgroup.threads"
	}
	var h *kit.Helper
	var tids []int
	return []step{
		{"thread: set-up", func(x *traceEnv) string {
			h = kit.StartHelper(x.t, "threads xx")
			tids = nil
			for _, f := range strings.Fields(h.Line(x.t)) {
				var n int
				fmt.Sscan(f, &n)
				tids = append(tids, n)
			}
			return kit.Word(x.hier.Attach(strings.TrimPrefix(realPath(x), x.hier.Mountpoint), h.PID()))
		}},
		{"thread: one is moved", func(x *traceEnv) string {
			return x.moved("w/"+file, tids[0], strconv.Itoa(tids[0])) + " " + x.place(tids[1]) + " " + x.place(h.PID())
		}},
		{"thread: what the files show", func(x *traceEnv) string {
			return fmt.Sprint(slices.Contains(strings.Fields(kit.ReadFile(x.at(file))), strconv.Itoa(tids[0])),
				slices.Contains(strings.Fields(kit.ReadFile(filepath.Join(x.dir, file))), strconv.Itoa(tids[1])))
		}},
		{"thread: its process is moved by its number", func(x *traceEnv) string {
			return x.moved("w/"+kit.Procs, h.PID(), strconv.Itoa(tids[1])) + " " + x.place(tids[0]) + " " + x.place(tids[1])
		}},
		{"thread: and back", func(x *traceEnv) string {
			return x.moved(kit.Procs, h.PID(), strconv.Itoa(h.PID())) + " " + x.place(tids[0])
		}},
		{"thread: a number that is nobody's", func(x *traceEnv) string { return kit.WriteFile(x.at(file), "4194302") }},
		{"thread: garbage", func(x *traceEnv) string { return kit.WriteFile(x.at(file), "1 2") }},
		{"thread: end", func(x *traceEnv) string {
			h.In.Close()
			h.Cmd.Process.Kill()
			h.Cmd.Wait()
			return "ok"
		}},
	}
}

// userSteps move tasks as another user than root.
func userSteps() []step {
	const user = 1000
	start := func(x *traceEnv, uid uint32) (int, func()) {
		cmd := exec.Command("sleep", "3600")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid, NoSetGroups: true}}
		if err := cmd.Start(); err != nil {
			x.t.Fatal(err)
		}
		x.hier.Attach(strings.TrimPrefix(realPath(x), x.hier.Mountpoint), cmd.Process.Pid)
		return cmd.Process.Pid, func() { cmd.Process.Kill(); cmd.Wait() }
	}
	move := func(x *traceEnv, uid uint32, file string) (s string) {
		pid, end := start(x, uid)
		defer end()
		kit.AsUser(user, func() { s = kit.WriteFile(x.at(file), strconv.Itoa(pid)) })
		return s + x.place(pid)
	}
	return []step{
		{"user: moves into a file that is root's", func(x *traceEnv) string { return move(x, user, kit.Procs) }},
		{"user: the file is made its own", func(x *traceEnv) string { return kit.Word(unix.Chown(x.at(kit.Procs), user, user)) }},
		{"user: moves its own process", func(x *traceEnv) string { return move(x, user, kit.Procs) }},
		{"user: moves root's process", func(x *traceEnv) string { return move(x, 0, kit.Procs) }},
		{"user: moves a third one's process", func(x *traceEnv) string { return move(x, 1001, kit.Procs) }},
		{"user: a tree of its own", func(x *traceEnv) string {
			s := kit.Mkdir(x.at("t"), 0o755)
			for _, f := range []string{"", kit.Procs} {
				s += kit.Word(unix.Chown(x.at("t/"+f), user, user))
			}
			return s
		}},
		{"user: moves within its own tree", func(x *traceEnv) (s string) {
			for _, f := range []string{"cpuset.cpus", "cpuset.mems"} { // v1: a new cpuset is empty
				if x.hier.Version == hierarchy.V1 && kit.Exists(x.at("t/"+f)) {
					s += kit.WriteFile(x.at("t/"+f), kit.ReadFile(x.at(f)))
				}
			}
			pid, end := start(x, user)
			defer end()
			kit.AsUser(user, func() {
				s += kit.Mkdir(x.at("t/a"), 0o755) + kit.Mkdir(x.at("t/b"), 0o755)
				for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
					if x.hier.Version == hierarchy.V1 && kit.Exists(x.at("t/a/"+f)) {
						s += kit.WriteFile(x.at("t/a/"+f), kit.ReadFile(x.at("t/"+f))) + kit.WriteFile(x.at("t/b/"+f), kit.ReadFile(x.at("t/"+f)))
					}
				}
			})
			s += kit.WriteFile(x.at("t/a/"+kit.Procs), strconv.Itoa(pid)) // root does the first
			kit.AsUser(user, func() { s += kit.WriteFile(x.at("t/b/"+kit.Procs), strconv.Itoa(pid)) })
			return s + x.place(pid)
		}},
		{"user: clean-up", func(x *traceEnv) string {
			eventuallyGone := func(path string) string {
				s := ""
				kit.Eventually(x.t, "rmdir of "+path, func() bool { s = kit.Rmdir(path); return s != "EBUSY" })
				return s
			}
			return eventuallyGone(x.at("t/a")) + eventuallyGone(x.at("t/b")) + eventuallyGone(x.at("t")) + kit.Word(unix.Chown(x.at(kit.Procs), 0, 0))
		}},
	}
}
