package kit

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// RootOf is who is root in the user namespace of a process.
func RootOf(t *testing.T, pid int) (id int) {
	t.Helper()
	var inside int
	if n, err := fmt.Sscan(ReadFile(fmt.Sprintf("/proc/%d/uid_map", pid)), &inside, &id); n != 2 || inside != 0 {
		t.Fatal("no root in the user namespace: ", err)
	}
	return id
}

// ChildOf is the child of run that is the first process of a guest: the one with a number in a pid namespace below this
// one.
func ChildOf(t *testing.T, pid int) int {
	t.Helper()
	here := len(numbersOf("self"))
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, f := range stats {
		text, child := ReadFile(f), filepath.Base(filepath.Dir(f))
		after := strings.Fields(text[strings.LastIndex(text, ")")+1:]) // state, parent
		if len(after) < 2 || after[1] != strconv.Itoa(pid) || len(numbersOf(child)) <= here {
			continue
		}
		if n, err := strconv.Atoi(child); err == nil {
			return n
		}
	}
	t.Fatalf("process %d has no child in a pid namespace of its own", pid)
	return 0
}

// numbersOf are the numbers of a process, one for each pid namespace that it is in, from this one on.
func numbersOf(process string) []string {
	_, rest, _ := strings.Cut(ReadFile("/proc/"+process+"/status"), "NSpid:")
	line, _, _ := strings.Cut(rest, "\n")
	return strings.Fields(line)
}

// StartSleeper starts a process that does nothing, in no particular cgroup.
func StartSleeper(t testing.TB) int {
	t.Helper()
	cmd := exec.Command("sleep", "3600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return cmd.Process.Pid
}

// AsUser runs f on a thread with another effective user id, and so without capabilities.
func AsUser(uid int, f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		const same = ^uintptr(0)
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, same, uintptr(uid), same); errno != 0 {
			panic(errno)
		}
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, same, uintptr(uid), same); errno != 0 {
			panic(errno)
		}
		f()
	}()
	<-done
}

// GuestID is the host's number of the root of a guest in a user namespace.
const GuestID = 524288

// StartStranger starts a process outside, whose number no process in a guest's own pid namespace has: in a machine that
// has just booted numbers are small, and a guest comes to the same ones.
func StartStranger(t testing.TB) int {
	t.Helper()
	pid := StartSleeper(t)
	if pid < 5000 {
		if err := os.WriteFile("/proc/sys/kernel/ns_last_pid", []byte("20000"), 0); err != nil {
			t.Fatal(err)
		}
		pid = StartSleeper(t)
	}
	return pid
}

// SupervisorOf finds the process that answers the calls of a guest, by its parent's number; 0 when there is none.
func SupervisorOf(parent int) int {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		f := strings.Fields(ReadFile("/proc/" + e.Name() + "/stat"))
		if len(f) > 3 && f[3] == strconv.Itoa(parent) &&
			strings.Contains(ReadFile("/proc/"+e.Name()+"/cmdline"), "guest-supervisor") {
			return pid
		}
	}
	return 0
}
