package host

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// The kernel says itself that kernel threads do not move (EINVAL); that they are outside comes first.
func TestMoveKernelThread(t *testing.T) {
	const pfKthread = 0x200000 // PF_KTHREAD, include/linux/sched.h
	names, err := numericNames("/proc")
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(names, func(name string) bool {
		raw, err := os.ReadFile("/proc/" + name + "/stat")
		if err != nil {
			return false
		}
		fields := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+1:]))
		flags, err := strconv.ParseUint(fields[6], 10, 64)
		return err == nil && flags&pfKthread != 0
	})
	if i < 0 {
		return // none is visible in this pid namespace, so none can be named
	}
	kthread, _ := strconv.Atoi(names[i])
	inHierarchies(t, func(t *testing.T, p *playground) {
		p.wantContains(t, kthread, false)
		p.wantRefused(t, kthread, false)
		p.wantRefused(t, kthread, true)
	})
}

func TestMoveZombie(t *testing.T) {
	inHierarchies(t, func(t *testing.T, p *playground) {
		in, reapIn := startSleep(t)
		out, _ := startSleep(t)
		p.put(t, "/guest", in)
		p.put(t, "/sibling", out)
		makeZombie(t, in)
		makeZombie(t, out)
		p.wantContains(t, out, false)
		p.wantRefused(t, out, false)
		err := move(p.boundary, p.a, "cgroup.procs", in, false, nil)
		if p.hier.Version == hierarchy.V1 {
			// v1 does not tell where it was, and its parent, this test, is outside.
			p.wantContains(t, in, false)
			if !errors.Is(err, unix.ESRCH) {
				t.Errorf("moving a zombie whose parent is outside: %v, want ESRCH", err)
			}
			return
		}
		if err != nil {
			t.Errorf("moving a zombie: %v; the kernel takes its number and moves nothing", err)
		}
		p.wantContains(t, in, true)
		p.wantAt(t, in, "/guest")
		reapIn()
	})
}

// A zombie in a cgroup that was removed under it: v2 keeps the path and adds " (deleted)".
func TestMoveZombieOfRemoved(t *testing.T) {
	inHierarchies(t, func(t *testing.T, p *playground) {
		if p.hier.Version == hierarchy.V1 {
			return
		}
		in, _ := startSleep(t)
		out, _ := startSleep(t)
		p.put(t, "/guest/a", in)
		p.put(t, "/sibling", out)
		makeZombie(t, in)
		makeZombie(t, out)
		for _, dir := range []string{"/guest/a", "/sibling"} {
			if err := p.hier.RemoveAll(p.top + dir); err != nil {
				t.Fatal(err)
			}
		}
		p.wantAt(t, in, "/guest/a"+deletedSuffix)
		if err := move(p.boundary, p.root, "cgroup.procs", in, false, nil); err != nil {
			t.Errorf("moving a zombie of a removed cgroup: %v; the kernel takes its number and moves nothing", err)
		}
		p.wantContains(t, out, false)
		p.wantRefused(t, out, false)
	})
}

// On v1 a guest's own dead child: its parent is inside, and the guest gets the kernel's answer.
func TestMoveZombieOfGuest(t *testing.T) {
	inHierarchies(t, func(t *testing.T, p *playground) {
		cmd := exec.Command("sh", "-c", "read go; sh -c 'echo $$' & exec sleep 600") // sleep reaps nobody
		in, out := startPiped(t, cmd)
		t.Cleanup(func() {
			cmd.Process.Kill()
			cmd.Wait()
		})
		p.put(t, "/guest", cmd.Process.Pid)
		fmt.Fprintln(in)
		line, _ := bufio.NewReader(out).ReadString('\n')
		zombie, err := strconv.Atoi(strings.TrimSpace(line))
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, "the child's end", func() bool {
			raw, _ := os.ReadFile("/proc/" + strconv.Itoa(zombie) + "/stat")
			return strings.Contains(string(raw), ") Z ")
		})
		if err := move(p.boundary, p.a, "cgroup.procs", zombie, false, nil); err != nil {
			t.Errorf("moving a zombie whose parent is inside: %v", err)
		}
	})
}

// A process moves with all its threads, so all must be inside.
func TestMoveThreadsV1(t *testing.T) {
	inHierarchies(t, func(t *testing.T, p *playground) {
		if p.hier.Version == hierarchy.V2 {
			return
		}
		pid, tids := startRole(t, "threads 3", 0)
		p.put(t, "/guest", pid)
		if err := move(p.boundary, p.a, "tasks", tids[0], true, nil); err != nil {
			t.Fatal(err)
		}
		p.wantAt(t, tids[0], "/guest/a")
		p.wantAt(t, tids[1], "/guest")
		p.wantAt(t, pid, "/guest")
		if err := move(p.boundary, p.a, "tasks", pid, true, nil); err != nil { // the first thread alone
			t.Fatal(err)
		}
		p.wantAt(t, pid, "/guest/a")
		p.wantAt(t, tids[1], "/guest")
		if err := move(p.boundary, p.root, "cgroup.procs", pid, false, nil); err != nil {
			t.Fatal(err)
		}
		for _, tid := range append(tids, pid) {
			p.wantAt(t, tid, "/guest")
		}
		p.putThread(t, "/sibling", tids[2])
		p.wantRefused(t, pid, false)
		p.wantRefused(t, tids[2], true)
		p.wantAt(t, tids[2], "/sibling")
		if err := move(p.boundary, p.a, "tasks", tids[1], true, nil); err != nil {
			t.Error(err)
		}
		if err := move(p.boundary, p.a, "cgroup.procs", tids[1], false, nil); !errors.Is(err, unix.ESRCH) {
			t.Errorf("moving a thread as if it were a process: %v, want ESRCH", err)
		}
	})
}

func TestMoveThreadsV2(t *testing.T) {
	inHierarchies(t, func(t *testing.T, p *playground) {
		if p.hier.Version == hierarchy.V1 {
			return
		}
		if err := p.hier.WriteFile(p.top+"/guest/a", "cgroup.type", "threaded"); err != nil {
			t.Fatal(err)
		}
		pid, tids := startRole(t, "threads 2", 0)
		p.put(t, "/guest", pid)
		if err := move(p.boundary, p.a, "cgroup.threads", tids[0], true, nil); err != nil {
			t.Fatal(err)
		}
		p.wantAt(t, tids[0], "/guest/a")
		p.wantAt(t, pid, "/guest")
	})
}

// A process whose first thread has exited lives on in the others, and the kernel moves those.
func TestMoveDeadLeader(t *testing.T) {
	inHierarchies(t, func(t *testing.T, p *playground) {
		pid, tids := startRole(t, "dead-leader", 0)
		eventually(t, "the first thread's end", func() bool {
			st, err := readStat(unix.AT_FDCWD, "/proc/"+strconv.Itoa(pid)+"/stat")
			return err == nil && st.exiting
		})
		p.wantRefused(t, pid, false)
		p.put(t, "/guest", tids[0])
		p.wantAt(t, tids[0], "/guest")
		if err := move(p.boundary, p.a, "cgroup.procs", pid, false, nil); err != nil {
			t.Fatal(err)
		}
		p.wantAt(t, tids[0], "/guest/a")
	})
}
