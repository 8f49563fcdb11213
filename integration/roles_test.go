package integration

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// roleVariable makes the test binary a helper process.
const roleVariable = "VCGROUPFS_TEST_ROLE"

// role is what the test binary does as a helper process, with the argument that follows the role's name.
type role func(arg string)

// helperRole is the role of this process, "" for the tests themselves.
var helperRole = onFirstThread(os.Getenv(roleVariable))

// onFirstThread keeps a helper on its first thread, about which /proc/<pid> tells. Only while packages are initialized
// is the main goroutine on that thread for certain.
func onFirstThread(role string) string {
	if role != "" {
		runtime.LockOSThread()
	}
	return role
}

// sharedRoles are those that the tests of more than one file start.
var sharedRoles = map[string]role{
	"threads":  playThreads,
	"read":     func(path string) { fmt.Print(readFile(path)) },
	"commands": func(string) { playCommands() },
	"script":   playScript,
	"flood":    playFlood,
	"nest":     playNest,
	"pause":    playPause,
}

// play plays a role, "NAME ARGUMENT", of one of the tables.
func play(text string, tables ...map[string]role) {
	name, arg, _ := strings.Cut(text, " ")
	for _, table := range tables {
		if do := table[name]; do != nil {
			do(arg)
			return
		}
	}
	fmt.Fprintf(os.Stderr, "no role is called %q\n", name)
	os.Exit(2)
}

// reported is a role that ends the process with status 1 on an error.
func reported(do func(arg string) error) role {
	return func(arg string) {
		if err := do(arg); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}

// playThreads starts a thread for each letter of its argument, prints their ids, and waits for its input to end.
func playThreads(letters string) {
	for n := 0; n < len(letters); {
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
}

// playPause does nothing until it is told to end.
func playPause(string) {
	end := make(chan os.Signal, 1)
	signal.Notify(end, unix.SIGTERM)
	<-end
}

// playScript plays the commands of the file /in and writes what came of them to the file /out.
func playScript(string) {
	os.Stdin, _ = os.Open("/in")
	os.Stdout, _ = os.OpenFile("/out", os.O_WRONLY, 0)
	playCommands()
}

// playCommands does: "write PATH VALUE" (quoted values), "read PATH", "mkdir PATH", "umount PATH", "tmpfs PATH", "deadfuse PATH",
// "keep PATH", "kept", "kept-read NAME", "kept-flood", "first PATH CALL", "bind PATH TO", "readonly PATH", "enter PATH", "nested PATH",
// "unshare-cgroup", "unshare-mounts", and "unshare" for both, with mounts of its own.
func playCommands() {
	runtime.LockOSThread()
	kept := -1
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		var op, path, value string
		n, _ := fmt.Sscanf(in.Text(), "%s %q %q", &op, &path, &value)
		switch {
		case op == "write" && n == 3:
			fmt.Println("=" + writeFile(path, value))
		case op == "read" && n >= 2:
			fmt.Printf("=%q\n", readFile(path))
		case op == "rmdir" && n >= 2:
			fmt.Println("=" + rm(path))
		case op == "mkdir" && n >= 2:
			fmt.Println("=" + word(unix.Mkdir(path, 0o755)))
		case op == "umount" && n >= 2:
			fmt.Println("=" + word(unix.Unmount(path, unix.MNT_DETACH)))
		case op == "tmpfs" && n >= 2:
			fmt.Println("=" + word(unix.Mount("tmpfs", path, "tmpfs", 0, "")))
		case op == "deadfuse" && n >= 2: // a file system that never answers
			fd, err := unix.Open("/dev/fuse", unix.O_RDWR, 0)
			if err == nil {
				err = unix.Mount("dead", path, "fuse", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", fd))
			}
			fmt.Println("=" + word(err))
		case op == "keep" && n >= 2: // an open directory, for "kept"
			var err error
			kept, err = unix.Open(path, unix.O_PATH|unix.O_DIRECTORY, 0)
			fmt.Println("=" + word(err))
		case op == "kept": // what it is
			fmt.Println("=" + word(unix.Fstat(kept, &unix.Stat_t{})))
		case op == "kept-read" && n >= 2: // what is in it
			fd, err := unix.Openat(kept, path, unix.O_RDONLY, 0)
			unix.Close(fd)
			fmt.Println("=" + word(err))
		case op == "kept-flood": // asks all the time what it is
			for range selfFlood {
				go func() {
					for {
						_ = unix.Fstat(kept, &unix.Stat_t{})
					}
				}()
			}
			fmt.Println("=ok")
		case op == "first" && n == 3:
			fmt.Println("=" + word(firstLooks[value](path)))
		case op == "bind" && n == 3:
			fmt.Println("=" + word(unix.Mount(path, value, "", unix.MS_BIND, "")))
		case op == "readonly" && n >= 2: // a mount
			fmt.Println("=" + word(unix.Mount("", path, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")))
		case op == "enter" && n >= 2: // a mount namespace
			fmt.Println("=" + word(enterMounts(path)))
		case op == "nested" && n >= 2: // reads as a user that is root in namespaces of its own
			fmt.Printf("=%q\n", readNested(path))
		case op == "unshare-cgroup":
			fmt.Println("=" + word(unix.Unshare(unix.CLONE_NEWCGROUP)))
		case op == "unshare-mounts": // which stay shared where they are
			fmt.Println("=" + word(unix.Unshare(unix.CLONE_NEWNS)))
		case op == "unshare":
			err := unix.Unshare(unix.CLONE_NEWCGROUP | unix.CLONE_NEWNS)
			if err == nil {
				err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
			}
			fmt.Println("=" + word(err))
		default:
			fmt.Println("=" + playListened(in.Text()))
		}
	}
}

// firstLooks are calls by which a directory can be looked at first. Each leaves the thread as it was.
var firstLooks = map[string]func(path string) error{
	"stat":   func(path string) error { return unix.Stat(path, &unix.Stat_t{}) },
	"statfs": func(path string) error { return unix.Statfs(path, &unix.Statfs_t{}) },
	"access": func(path string) error { return unix.Access(path, unix.R_OK|unix.X_OK) },
	"open": func(path string) error {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		unix.Close(fd)
		return err
	},
	"chdir":     func(path string) error { return errors.Join(unix.Chdir(path), unix.Chdir("/")) },
	"listxattr": func(path string) error { _, err := unix.Listxattr(path, nil); return err },
	"inotify": func(path string) error {
		fd, err := unix.InotifyInit1(0)
		if err == nil {
			_, err = unix.InotifyAddWatch(fd, path, unix.IN_CREATE)
			unix.Close(fd)
		}
		return err
	},
}

// enterMounts enters a mount namespace by its file in /proc.
func enterMounts(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return err
	}
	return unix.Setns(fd, unix.CLONE_NEWNS)
}

// readNested reads a file as a user that has made itself user and mount namespaces.
func readNested(path string) string {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleVariable+"=read "+path)
	ids := []syscall.SysProcIDMap{{HostID: guestID, Size: 1}}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNS, UidMappings: ids, GidMappings: ids, Credential: &syscall.Credential{NoSetGroups: true},
	}
	out, err := cmd.Output()
	if err != nil {
		return err.Error()
	}
	return string(out)
}

// ask has a helper that plays commands do one, and says what came of it.
func (h *helper) ask(t testing.TB, op string, args ...string) string {
	t.Helper()
	for _, a := range args {
		op += " " + strconv.Quote(a)
	}
	fmt.Fprintln(h.in, op)
	answer := strings.TrimPrefix(h.line(t), "=")
	if text, err := strconv.Unquote(answer); err == nil {
		return text
	}
	return answer
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
