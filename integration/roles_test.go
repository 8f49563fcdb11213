package integration

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// roleVariable makes the test binary a helper process.
const roleVariable = "VCGROUPFS_TEST_ROLE"

// playRole is what a helper does.
func playRole(role string) {
	kind, arg, _ := strings.Cut(role, " ")
	switch kind {
	case "threads": // starts threads, prints their ids, and waits for its input to end
		for n := 0; n < len(arg); {
			c := make(chan int)
			go func() {
				runtime.LockOSThread()
				c <- unix.Gettid()
				select {}
			}()
			if tid := <-c; tid != os.Getpid() { // the first thread is the process to cgroups
				fmt.Print(tid, " ")
				n++
			}
		}
		fmt.Println()
		io.Copy(io.Discard, os.Stdin)
	case "commands": // does what each line says, and prints what came of it
		playCommands()
	case "flood": // does too much of one thing
		playFlood(arg)
	case "ask": // asks a control socket
		playAsk(arg)
	case "hostile": // tries to get at the host from inside a guest
		playHostile(arg)
	}
}

// playCommands writes: "write PATH VALUE" (quoted values), "read PATH".
func playCommands() {
	runtime.LockOSThread()
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		var op, path, value string
		n, _ := fmt.Sscanf(in.Text(), "%s %q %q", &op, &path, &value)
		switch {
		case op == "write" && n == 3:
			fmt.Println("=" + writeFile(path, value))
		case op == "read" && n >= 2:
			fmt.Printf("=%q\n", readFile(path))
		default:
			fmt.Println("=?")
		}
	}
}

// helper is a process that does what it is told.
type helper struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// startHelper starts the test binary in a role.
func startHelper(t testing.TB, role string) *helper {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleVariable+"="+role)
	cmd.Stderr = os.Stderr
	return startProcess(t, cmd)
}

func (h *helper) pid() int { return h.cmd.Process.Pid }

// line reads a line of its output.
func (h *helper) line(t testing.TB) string {
	t.Helper()
	s, err := h.out.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(s)
}

// tell gives a command to a helper of role "commands" and answers with what came of it.
func (h *helper) tell(t testing.TB, format string, args ...any) string {
	t.Helper()
	fmt.Fprintf(h.in, format+"\n", args...)
	return strings.TrimPrefix(h.line(t), "=")
}

// writeFile gives one command to a control file: "ok", or the errno of the open or the write.
func writeFile(path, value string) string {
	return word(withFile(path, unix.O_WRONLY, writeFD(value)))
}

// readFile reads a file: its content, or the errno.
func readFile(path string) string {
	raw, err := os.ReadFile(path)
	if err != nil {
		return errnoName(err)
	}
	return string(raw)
}

// word is "ok" or an errno's name.
func word(err error) string {
	if err == nil {
		return "ok"
	}
	return errnoName(err)
}
