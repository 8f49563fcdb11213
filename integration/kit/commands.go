package kit

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
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
		return TypeOf(path)
	case "ftype":
		fd, err := unix.Open(path, unix.O_PATH, 0)
		if err != nil {
			return Word(err)
		}
		defer unix.Close(fd)
		var st unix.Statfs_t
		if err := unix.Fstatfs(fd, &st); err != nil {
			return Word(err)
		}
		return fmt.Sprintf("%x", uint32(st.Type))
	case "mount":
		return Word(unix.Mount("none", path, fstype, 0, options))
	case "fsopen":
		fd, err := unix.Fsopen(path, unix.FSOPEN_CLOEXEC)
		if err == nil {
			unix.Close(fd)
		}
		return Word(err)
	case "clone3":
		_, _, errno := unix.RawSyscall(unix.SYS_CLONE3, 0, 0, 0)
		return Word(errno)
	case "hang": // in many threads
		for range 24 {
			go TypeOf(path)
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

// TypeOf is what statfs says, in hexadecimal digits, or an errno.
func TypeOf(path string) string {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return Word(err)
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
				got := TypeOf(path)
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

// playCommands does: "write PATH VALUE" (quoted values), "read PATH", "mkdir PATH", "umount PATH", "tmpfs PATH",
// "deadfuse PATH", "keep PATH", "kept", "kept-read NAME", "kept-flood", "first PATH CALL", "bind PATH TO", "readonly
// PATH", "enter PATH", "nested PATH", "unshare-cgroup", "unshare-mounts", and "unshare" for both, with mounts of its
// own.
func playCommands() {
	runtime.LockOSThread()
	kept := -1
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		var op, path, value string
		n, _ := fmt.Sscanf(in.Text(), "%s %q %q", &op, &path, &value)
		switch {
		case op == "write" && n == 3:
			fmt.Println("=" + WriteFile(path, value))
		case op == "read" && n >= 2:
			fmt.Printf("=%q\n", ReadFile(path))
		case op == "rmdir" && n >= 2:
			fmt.Println("=" + Rmdir(path))
		case op == "mkdir" && n >= 2:
			fmt.Println("=" + Word(unix.Mkdir(path, 0o755)))
		case op == "umount" && n >= 2:
			fmt.Println("=" + Word(unix.Unmount(path, unix.MNT_DETACH)))
		case op == "tmpfs" && n >= 2:
			fmt.Println("=" + Word(unix.Mount("tmpfs", path, "tmpfs", 0, "")))
		case op == "deadfuse" && n >= 2: // a file system that never answers
			fd, err := unix.Open("/dev/fuse", unix.O_RDWR, 0)
			if err == nil {
				err = unix.Mount("dead", path, "fuse", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", fd))
			}
			fmt.Println("=" + Word(err))
		case op == "keep" && n >= 2: // an open directory, for "kept"
			var err error
			kept, err = unix.Open(path, unix.O_PATH|unix.O_DIRECTORY, 0)
			fmt.Println("=" + Word(err))
		case op == "kept": // what it is
			fmt.Println("=" + Word(unix.Fstat(kept, &unix.Stat_t{})))
		case op == "kept-read" && n >= 2: // what is in it
			fd, err := unix.Openat(kept, path, unix.O_RDONLY, 0)
			unix.Close(fd)
			fmt.Println("=" + Word(err))
		case op == "kept-flood": // asks all the time what it is
			for range SelfFlood {
				go func() {
					for {
						_ = unix.Fstat(kept, &unix.Stat_t{})
					}
				}()
			}
			fmt.Println("=ok")
		case op == "first" && n == 3:
			fmt.Println("=" + Word(FirstLooks[value](path)))
		case op == "bind" && n == 3:
			fmt.Println("=" + Word(unix.Mount(path, value, "", unix.MS_BIND, "")))
		case op == "readonly" && n >= 2: // a mount
			fmt.Println("=" + Word(unix.Mount("", path, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")))
		case op == "enter" && n >= 2: // a mount namespace
			fmt.Println("=" + Word(enterMounts(path)))
		case op == "nested" && n >= 2: // reads as a user that is root in namespaces of its own
			fmt.Printf("=%q\n", readNested(path))
		case op == "unshare-cgroup":
			fmt.Println("=" + Word(unix.Unshare(unix.CLONE_NEWCGROUP)))
		case op == "unshare-mounts": // which stay shared where they are
			fmt.Println("=" + Word(unix.Unshare(unix.CLONE_NEWNS)))
		case op == "unshare":
			err := unix.Unshare(unix.CLONE_NEWCGROUP | unix.CLONE_NEWNS)
			if err == nil {
				err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
			}
			fmt.Println("=" + Word(err))
		default:
			fmt.Println("=" + playListened(in.Text()))
		}
	}
}

// FirstLooks are calls by which a directory can be looked at first. Each leaves the thread as it was.
var FirstLooks = map[string]func(path string) error{
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
	cmd.Env = append(os.Environ(), RoleVariable+"=read "+path)
	ids := []syscall.SysProcIDMap{{HostID: GuestID, Size: 1}}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNS, UidMappings: ids, GidMappings: ids,
		Credential: &syscall.Credential{NoSetGroups: true},
	}
	out, err := cmd.Output()
	if err != nil {
		return err.Error()
	}
	return string(out)
}

// SelfFlood is how many threads of a container ask at once.
const SelfFlood = 50
