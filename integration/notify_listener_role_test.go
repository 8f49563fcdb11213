package integration

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// statfsLoop counts what statfs says, by many threads.
type statfsLoop struct {
	stop atomic.Bool
	all  sync.WaitGroup

	mu   sync.Mutex
	said map[string]int // guarded by mu
}

var loop statfsLoop

// playListened does more commands, for a container whose calls are listened to: "type PATH" says the type of statfs,
// "ftype PATH" that of fstatfs; "mount PATH TYPE OPTIONS" mounts; "loop-begin PATH" has eight threads ask for the
// type again and again, "loop-end" says what they were told and how often.
func playListened(line string) string {
	var op, path, fstype, options string
	fmt.Sscanf(line, "%s %q %q %q", &op, &path, &fstype, &options)
	switch op {
	case "type":
		return typeOf(path)
	case "ftype":
		fd, err := unix.Open(path, unix.O_PATH, 0)
		if err != nil {
			return word(err)
		}
		defer unix.Close(fd)
		var st unix.Statfs_t
		if err := unix.Fstatfs(fd, &st); err != nil {
			return word(err)
		}
		return fmt.Sprintf("%x", uint32(st.Type))
	case "mount":
		return word(unix.Mount("none", path, fstype, 0, options))
	case "fsopen":
		fd, err := unix.Fsopen(path, unix.FSOPEN_CLOEXEC)
		if err == nil {
			unix.Close(fd)
		}
		return word(err)
	case "clone3":
		_, _, errno := unix.RawSyscall(unix.SYS_CLONE3, 0, 0, 0)
		return word(errno)
	case "hang": // in many threads
		for range 24 {
			go typeOf(path)
		}
		time.Sleep(time.Second)
		return "ok"
	case "sleep":
		time.Sleep(3 * time.Second)
		return "ok"
	case "loop-begin":
		loop.begin(path)
		return "ok"
	case "loop-end":
		return loop.end()
	}
	return "?"
}

// typeOf is what statfs says, in hexadecimal digits, or an errno.
func typeOf(path string) string {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return word(err)
	}
	return fmt.Sprintf("%x", uint32(st.Type))
}

func (l *statfsLoop) begin(path string) {
	l.stop.Store(false)
	l.said = map[string]int{}
	for range 8 {
		l.all.Go(func() {
			runtime.LockOSThread()
			for !l.stop.Load() {
				got := typeOf(path)
				l.mu.Lock()
				l.said[got]++
				l.mu.Unlock()
			}
		})
	}
}

func (l *statfsLoop) end() string {
	l.stop.Store(true)
	l.all.Wait()
	var all []string
	for what, n := range l.said {
		all = append(all, fmt.Sprintf("%s:%d", what, n))
	}
	sort.Strings(all)
	return strings.Join(all, ",")
}

// playForge hands over a listener that it has not.
func playForge(socket string) { fmt.Println(forgeAt(socket, "{}")) }

// forgeAt connects to a socket for listeners, sends a state without one, and says what came of it.
func forgeAt(socket, text string) string {
	c, err := net.Dial("unix", socket)
	if err != nil {
		return word(err)
	}
	defer c.Close()
	_, err = c.Write([]byte(text))
	if text == "" {
		err = c.(*net.UnixConn).CloseWrite()
	}
	if errors.Is(err, unix.EPIPE) {
		return "closed"
	}
	if err != nil {
		return word(err)
	}
	c.SetReadDeadline(time.Now().Add(patience))
	if n, err := c.Read(make([]byte, 1)); n > 0 || os.IsTimeout(err) {
		return "heard"
	}
	return "closed"
}

// printedBy runs a command that plays a role, and says what it printed.
func printedBy(t testing.TB, cmd *exec.Cmd, role string) string {
	t.Helper()
	cmd.Env = append(os.Environ(), roleVariable+"="+role)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%s: %v: %s", role, err, out)
	}
	return string(out)
}
