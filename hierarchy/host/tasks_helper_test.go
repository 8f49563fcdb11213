package host

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// roleVariable makes the test binary a helper process: it plays a role until its standard input ends, which it does when
// the test ends, however that is.
const roleVariable = "VCGROUPFS_HOST_TEST_ROLE"

func init() {
	role, arg, _ := strings.Cut(os.Getenv(roleVariable), " ")
	n, _ := strconv.Atoi(arg)
	switch role {
	case "":
		return
	case "threads":
		fmt.Println(spawnThreads(n))
		io.Copy(io.Discard, os.Stdin)
	case "nest":
		playNest(n)
	case "dead-leader":
		playDeadLeader()
	case "unshared":
		playUnshared()
	case "reuse":
		playReuse(arg)
	}
	os.Exit(0)
}

// spawnThreads starts threads that stay, and answers with their ids.
func spawnThreads(n int) string {
	tids := make([]string, n)
	for i := range tids {
		c := make(chan int)
		go func() {
			runtime.LockOSThread()
			c <- unix.Gettid()
			select {}
		}()
		tids[i] = strconv.Itoa(<-c)
	}
	return strings.Join(tids, " ")
}

// playNest starts itself in pid namespaces, each below the other. The innermost prints its process id and the ids of two
// threads as it sees them.
func playNest(generations int) {
	if generations == 0 {
		fmt.Println(os.Getpid(), spawnThreads(2))
		io.Copy(io.Discard, os.Stdin)
		return
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleVariable+"=nest "+strconv.Itoa(generations-1))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
	if err := cmd.Run(); err != nil {
		fmt.Println("cannot nest:", err)
	}
}

// playDeadLeader is a process whose first thread has exited and whose others live.
func playDeadLeader() {
	fmt.Println(spawnThreads(1))
	go func() {
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	syscall.Syscall(syscall.SYS_EXIT, 0, 0, 0) // of this thread: init runs on the first
}

// playUnshared has a thread whose children would be born in another pid namespace, while it stays where it is.
func playUnshared() {
	c := make(chan string)
	go func() {
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWPID); err != nil {
			c <- err.Error()
		}
		c <- strconv.Itoa(unix.Gettid())
		select {}
	}()
	fmt.Println(<-c)
	io.Copy(io.Discard, os.Stdin)
}

// startPiped starts a command with a pipe to it and one from it.
func startPiped(t testing.TB, cmd *exec.Cmd) (in io.WriteCloser, out io.Reader) {
	t.Helper()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if out, err = cmd.StdoutPipe(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return in, out
}

// startRole starts a helper, and answers with its process id and the numbers it printed.
func startRole(t testing.TB, role string, flags uintptr) (int, []int) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleVariable+"="+role, "GORACE=atexit_sleep_ms=0")
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags}
	in, out := startPiped(t, cmd)
	t.Cleanup(func() {
		in.Close()
		cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("helper %q: %v", role, err)
	}
	numbers := parseInts([]byte(line))
	if len(numbers) == 0 {
		t.Fatalf("helper %q: %s", role, line)
	}
	return cmd.Process.Pid, numbers
}

// startSleep starts a process that does nothing. reap ends it; it is called at the end of the test at the latest.
func startSleep(t testing.TB) (pid int, reap func()) {
	t.Helper()
	cmd := exec.Command("sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	reap = func() {
		cmd.Process.Kill()
		cmd.Wait()
	}
	t.Cleanup(reap)
	return cmd.Process.Pid, reap
}

// makeZombie kills a child and waits until it is a zombie, which it stays.
func makeZombie(t testing.TB, pid int) {
	t.Helper()
	unix.Kill(pid, unix.SIGKILL)
	if err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
}

// childOf finds the only child of a process.
func childOf(t testing.TB, parent int) int {
	t.Helper()
	names, err := numericNames("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if st, err := readStat(unix.AT_FDCWD, "/proc/"+name+"/stat"); err == nil && st.parent == parent {
			pid, _ := strconv.Atoi(name)
			return pid
		}
	}
	t.Fatalf("process %d has no child", parent)
	return 0
}

// eventually waits for something that the kernel does in its own time.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited too long for %s", what)
		}
	}
}
