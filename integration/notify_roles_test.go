package integration

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// What guests do whose calls are answered. Each role prints lines, and ends.

// notifyRoles are those roles, by name.
var notifyRoles = map[string]kit.Role{
	"notify-bench":     kit.Reported(playNotifyBench),
	"notify-clone3":    kit.Reported(playClone3),
	"notify-hang":      kit.Reported(playHang),
	"notify-hang-proc": kit.Reported(playHangProc),
	"notify-joined":    kit.Reported(playJoined),
	"notify-limit":     kit.Reported(playLimit),
	"notify-loop":      kit.Reported(playLoop),
	"notify-mounts":    kit.Reported(playMounts),
	"notify-nested":    kit.Reported(playNestedMounts),
	"notify-outside":   kit.Reported(playOutside),
	"notify-part":      kit.Reported(playPart),
	"notify-races":     kit.Reported(playRaces),
	"notify-rights":    kit.Reported(playRights),
	"notify-stuck":     kit.Reported(playStuck),
	"notify-types":     kit.Reported(playTypes),
	"proc-inner":       kit.Reported(playProcInner),
	"proc-keeps":       kit.Reported(playProcKeeps),
	"proc-loop":        kit.Reported(playProcLoop),
	"proc-opens":       kit.Reported(playProcOpens),
	"proc-places":      kit.Reported(playProcPlaces),
	"proc-races":       kit.Reported(playProcRaces),
	"proc-stuck":       kit.Reported(playProcStuck),
}

// playTypes prints what statfs and fstatfs say of paths, a JSON list, below the view; directories named "a" are made first.
func playTypes(arg string) error {
	var paths []string
	if err := json.Unmarshal([]byte(arg), &paths); err != nil {
		return err
	}
	for _, path := range paths {
		at := filepath.Join(kit.GuestView, path)
		if filepath.Base(path) == "a" {
			if err := os.Mkdir(at, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
				return err
			}
		}
		var st, fst unix.Statfs_t
		fd, err := unix.Open(at, unix.O_PATH, 0)
		if err == nil {
			err = unix.Statfs(at, &st)
		}
		if err == nil {
			err = unix.Fstatfs(fd, &fst)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", at, err)
		}
		fmt.Printf("%s %#x %#x\n", path, st.Type, fst.Type)
		unix.Close(fd)
	}
	return nil
}

// notifyMounts are mounts of cgroups, each with what comes of it natively in namespaces on a host like this one.
var notifyMounts = []struct{ kind, options string }{
	{"cgroup2", ""}, {"cgroup2", "nsdelegate"}, {"cgroup2", "nsdelegate,memory_recursiveprot"}, {"cgroup2", "memory"}, {"cgroup2", "foo"},
	{"cgroup2", "nsdelegate=1"}, {"cgroup2", "ro"}, {"cgroup2", "source=x"},
	{"cgroup", ""}, {"cgroup", "all"}, {"cgroup", "all,memory"}, {"cgroup", "none"}, {"cgroup", "none,memory"},
	{"cgroup", "memory"}, {"cgroup", "pids"}, {"cgroup", "memory,memory"}, {"cgroup", ",memory,"}, {"cgroup", "memory=1"}, {"cgroup", "memory,rw"},
	{"cgroup", "memory,sync"}, {"cgroup", "cpu"}, {"cgroup", "cpuacct"}, {"cgroup", "cpu,cpuacct"}, {"cgroup", "cpuacct,cpu"},
	{"cgroup", "blkio,pids"}, {"cgroup", "hugetlb"}, {"cgroup", "memory,foo"}, {"cgroup", "foo"}, {"cgroup", "memory,silent"},
	{"cgroup", "memory,source=x"}, {"cgroup", "memory,clone_children"}, {"cgroup", "memory,xattr"}, {"cgroup", "memory,cpuset_v2_mode"},
	{"cgroup", "memory,noprefix"}, {"cgroup", "cpuset,noprefix"}, {"cgroup", "cpuset"},
	{"cgroup", "none,name=systemd"}, {"cgroup", "name=systemd"}, {"cgroup", "xattr,name=systemd"}, {"cgroup", "name=systemd,memory"},
	{"cgroup", "name=systemd,name=systemd"}, {"cgroup", "none,name=unknown"}, {"cgroup", "name=unknown"}, {"cgroup", "name="},
	{"cgroup", "name"}, {"cgroup", "name=a/b"}, {"cgroup", "none=1,name=systemd"}, {"cgroup", "name=" + strings.Repeat("n", 64)},
	{"cgroup2.x", ""}, {"cgroupx", ""},
}

// playMounts does them at a directory, and what can go wrong otherwise, and prints what came of each.
func playMounts(dir string) error {
	runtime.LockOSThread()
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make private: %w", err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		return fmt.Errorf("mount a tmpfs: %w", err)
	}
	at, file := filepath.Join(dir, "at"), filepath.Join(dir, "file")
	if err := errors.Join(os.Mkdir(at, 0o755), os.WriteFile(file, nil, 0o644), os.Symlink("at", filepath.Join(dir, "link"))); err != nil {
		return err
	}
	try := func(name, target, kind string, flags uintptr, options string) {
		err := unix.Mount("none", target, kind, flags, options)
		fmt.Printf("%s: %s\n", name, kit.Word(err))
		if err == nil {
			if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
				fmt.Printf("%s: umount: %s\n", name, kit.Word(err))
			}
		}
	}
	const safe = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	for _, m := range notifyMounts {
		try(m.kind+" "+m.options, at, m.kind, safe, m.options)
	}
	try("read-only", at, "cgroup2", unix.MS_RDONLY, "")
	try("with the magic number", at, "cgroup2", unix.MS_MGC_VAL|safe, "")
	try("no place", filepath.Join(dir, "none"), "cgroup2", 0, "")
	try("no place, wrong options", filepath.Join(dir, "none"), "cgroup", 0, "foo")
	try("at a file", file, "cgroup2", 0, "")
	try("at a file, wrong options", file, "cgroup", 0, "foo")
	try("by a link", filepath.Join(dir, "link"), "cgroup2", 0, "")
	try("no path", "", "cgroup2", 0, "")
	try("a path too long", dir+strings.Repeat("/x", 2100), "cgroup2", 0, "")
	fmt.Println("bad options pointer:", rawMount(at, "cgroup", 0, 8))
	fmt.Println("bad source pointer:", rawMount(at, "cgroup", 8, 0))
	if err := unix.Mount("none", at, "cgroup2", 0, ""); err == nil {
		fmt.Println("twice:", kit.Word(unix.Mount("none", at, "cgroup2", 0, "")))
		fmt.Println("umount:", kit.Word(unix.Unmount(at, 0)))
		fmt.Println("umount again:", kit.Word(unix.Unmount(at, 0)))
	}
	here, err := unix.Open(at, unix.O_PATH, 0)
	if err != nil {
		return err
	}
	try("by a descriptor", fmt.Sprintf("/proc/self/fd/%d", here), "cgroup2", 0, "")
	try("by a thread's descriptor", fmt.Sprintf("/proc/thread-self/fd/%d", here), "cgroup2", 0, "")
	if err := unix.Chdir(at); err != nil {
		return err
	}
	try("here", ".", "cgroup2", 0, "")
	try("there and back", "../file/../at", "cgroup2", 0, "")
	try("up and down", "../at", "cgroup2", 0, "")
	return nil
}

// rawMount mounts with pointers to the source and to options that nothing is at.
func rawMount(target, kind string, source, options uintptr) string {
	a, _ := unix.BytePtrFromString(target)
	b, _ := unix.BytePtrFromString(kind)
	_, _, errno := unix.Syscall6(unix.SYS_MOUNT, source, uintptr(unsafe.Pointer(a)), uintptr(unsafe.Pointer(b)), 0, options, 0)
	if errno == 0 {
		return "ok"
	}
	return unix.ErrnoName(errno)
}

// playNestedMounts plays "FLAGS ROLE" in namespaces: u for a user namespace, m and c for a mount and a cgroup namespace.
func playNestedMounts(arg string) error {
	which, role, _ := strings.Cut(arg, " ")
	var flags uintptr
	for letter, flag := range map[string]uintptr{"u": unix.CLONE_NEWUSER, "m": unix.CLONE_NEWNS, "c": unix.CLONE_NEWCGROUP} {
		if strings.Contains(which, letter) {
			flags |= flag
		}
	}
	cmd := kit.InNamespaces(role, flags)
	cmd.Stdout = os.Stdout
	return cmd.Run()
}

// playPart makes a cgroup in which it begins a cgroup namespace, and looks at what it can mount there: a JSON list of the hierarchy's
// directory in the view, the type, the options and a directory to mount at. It prints the limit that it finds at the mount's root, whether
// the boundary's can be written by it, and the mount.
func playPart(arg string) error {
	runtime.LockOSThread()
	var x []string
	if err := json.Unmarshal([]byte(arg), &x); err != nil {
		return err
	}
	top, kind, options, at := filepath.Join(kit.GuestView, x[0]), x[1], x[2], x[3]
	if kind == "cgroup2" && kit.Exists(filepath.Join(top, "pids.max")) {
		if got := kit.WriteFile(filepath.Join(top, "cgroup.subtree_control"), "+pids"); got != "ok" {
			return fmt.Errorf("+pids: %s", got)
		}
	}
	for _, dir := range []string{"part", "part/below", "beside"} {
		if err := os.Mkdir(filepath.Join(top, dir), 0o755); err != nil {
			return err
		}
	}
	if got := kit.WriteFile(filepath.Join(top, "part", kit.Procs), strconv.Itoa(os.Getpid())); got != "ok" {
		return fmt.Errorf("move: %s", got)
	}
	err := unix.Unshare(unix.CLONE_NEWCGROUP | unix.CLONE_NEWNS)
	if err == nil {
		err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	}
	if err == nil {
		// From anywhere in the namespace the mount begins at its root.
		_ = os.WriteFile(filepath.Join(top, "part/below", kit.Procs), []byte("0"), 0)
		err = unix.Mount("none", at, kind, 0, options)
	}
	if err != nil {
		return err
	}
	for _, name := range []string{"below", "beside", "part", "../beside"} {
		fmt.Println(name, kit.Exists(filepath.Join(at, name)) && name[0] != '.')
	}
	var st unix.Statfs_t
	if err := unix.Statfs(at, &st); err != nil {
		return err
	}
	fmt.Printf("type %#x\n", st.Type)
	for line := range strings.Lines(kit.ReadFile("/proc/self/mountinfo")) {
		if f := strings.Fields(line); f[4] == at {
			fmt.Println("root", f[3], "options", strings.Split(f[5], ",")[0:4])
		}
	}
	return nil
}

// playRaces changes what its calls point to while they are answered, for a while: "DIR DIR". It mounts at the first, or at the second.
func playRaces(arg string) error {
	a, b, _ := strings.Cut(arg, " ")
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	target, kind := make([]byte, 128), make([]byte, 16)
	put := func(into []byte, text string) { copy(into, text+"\x00") }
	put(target, a)
	put(kind, "cgroup2")
	var stop atomic.Bool
	for _, flip := range []func(i int){
		func(i int) { put(target, []string{a, b, "/proc/self/fd/0", "/proc/1/root", "/", "../../.."}[i%6]) },
		func(i int) { put(kind, []string{"cgroup2", "tmpfs", "cgroup", "cgroup2"}[i%4]) },
	} {
		go func() {
			for i := 0; !stop.Load(); i++ {
				flip(i)
				time.Sleep(time.Microsecond)
			}
		}()
	}
	results := map[string]int{}
	for began := time.Now(); time.Since(began) < 2*time.Second; {
		_, _, errno := unix.Syscall6(unix.SYS_MOUNT, uintptr(unsafe.Pointer(&kind[0])), uintptr(unsafe.Pointer(&target[0])), uintptr(unsafe.Pointer(&kind[0])), 0, 0, 0)
		if errno == 0 {
			results["ok"]++
		} else {
			results[unix.ErrnoName(errno)]++
		}
		for _, at := range []string{a, b} {
			for unix.Unmount(at, unix.MNT_DETACH) == nil {
			}
		}
	}
	stop.Store(true)
	fmt.Println(results)
	return nil
}

// playHang has a file system that never answers, and many threads that ask what it is; then it asks of the view, and prints how long that
// took and what it said.
func playHang(dir string) error {
	dev, err := unix.Open("/dev/fuse", unix.O_RDWR, 0)
	if err == nil {
		err = unix.Mount("dead", dir, "fuse", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", dev))
	}
	if err != nil {
		return fmt.Errorf("a file system that hangs: %w", err)
	}
	for i := range 40 {
		go func() {
			var st unix.Statfs_t
			_ = unix.Statfs(fmt.Sprintf("%s/%d", dir, i%20), &st)
		}()
	}
	time.Sleep(time.Second)
	return slowestStatfs()
}

// playHangProc has that file system in the place of /proc, and more threads, which ask for what they have open.
func playHangProc(string) error {
	dev, err := unix.Open("/dev/fuse", unix.O_RDWR, 0)
	if err == nil {
		err = unix.Mount("dead", "/proc", "fuse", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", dev))
	}
	if err != nil {
		return fmt.Errorf("a file system that hangs: %w", err)
	}
	for i := range 100 {
		go func() {
			var st unix.Statfs_t
			_ = unix.Statfs(fmt.Sprintf("/proc/self/fd/%d", i%20), &st)
		}()
	}
	time.Sleep(3 * time.Second) // so many are passed on when they have waited a second for room
	return slowestStatfs()
}

// slowestStatfs asks for the view's type for some time, and prints how long that took at most.
func slowestStatfs() error {
	var slowest time.Duration
	for range 50 {
		var st unix.Statfs_t
		began := time.Now()
		if err := unix.Statfs(kit.GuestView, &st); err != nil {
			return err
		}
		slowest = max(slowest, time.Since(began))
		if st.Type == unix.FUSE_SUPER_MAGIC {
			fmt.Println("FUSE's type")
			break
		}
		time.Sleep(30 * time.Millisecond)
	}
	fmt.Println("slowest", slowest.Milliseconds(), "ms")
	return nil
}

// playStuck mounts a file system whose server reads what it is asked and never answers, and has callers killed that wait for it: the kernel
// then lets no thread end that asked.
func playStuck(dir string) error {
	dev, err := unix.Open("/dev/fuse", unix.O_RDWR, 0)
	if err == nil {
		err = unix.Mount("dead", dir, "fuse", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", dev))
	}
	if err != nil {
		return fmt.Errorf("a file system that hangs: %w", err)
	}
	go func() {
		request := make([]byte, 1<<17)
		for {
			if n, err := unix.Read(dev, request); err != nil || n < 16 {
				return
			}
			const size, initOp = 16 + 64, 26 // fuse_out_header and fuse_init_out of include/uapi/linux/fuse.h
			if binary.LittleEndian.Uint32(request[4:]) == initOp {
				reply := binary.LittleEndian.AppendUint32(nil, size)
				reply = append(append(reply, 0, 0, 0, 0), request[8:16]...)
				reply = binary.LittleEndian.AppendUint32(reply, 7)
				reply = binary.LittleEndian.AppendUint32(reply, 31)
				_, _ = unix.Write(dev, append(reply, make([]byte, size-len(reply))...))
			}
		}
	}()
	for i := range 6 {
		asks := exec.Command("stat", "-f", fmt.Sprintf("%s/%d", dir, i))
		if err := asks.Start(); err != nil {
			return err
		}
		time.Sleep(200 * time.Millisecond)
		asks.Process.Kill()
		_ = asks.Wait()
		if err := slowestStatfs(); err != nil {
			return err
		}
	}
	return nil
}

// playClone3 calls clone3 with a view's directory for the new process's cgroup, and prints what came of it.
func playClone3(string) error {
	dir, err := unix.Open(kit.GuestView, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	args := struct{ flags, pidfd, childTid, parentTid, exitSignal, stack, stackSize, tls, setTid, setTidSize, cgroup uint64 }{
		flags: unix.CLONE_INTO_CGROUP, exitSignal: uint64(unix.SIGCHLD), cgroup: uint64(dir),
	}
	pid, _, errno := unix.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&args)), unsafe.Sizeof(args), 0)
	if errno == 0 && pid == 0 {
		unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	}
	fmt.Println(unix.ErrnoName(errno))
	return nil
}

// playLimit mounts what has pids at a directory, and tries to raise the limit that it finds at the mount's root.
func playLimit(at string) error {
	err := unix.Mount("none", at, "cgroup", 0, "pids")
	if err != nil {
		err = unix.Mount("none", at, "cgroup2", 0, "")
	}
	if err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	file := filepath.Join(at, "pids.max")
	fmt.Printf("limit %s, write: %s, directory: %s\n", strings.TrimSpace(kit.ReadFile(file)), kit.WriteFile(file, "max"), kit.Word(os.Mkdir(filepath.Join(at, "x"), 0o755)))
	return nil
}

// playLoop asks for the view's type from some threads until its input ends, and prints how often it was another than at first.
func playLoop(string) error {
	var first unix.Statfs_t
	if err := unix.Statfs(kit.GuestView, &first); err != nil {
		return err
	}
	fmt.Printf("type %#x\n", first.Type)
	var stop atomic.Bool
	var wrong, asked atomic.Int64
	for range 4 {
		go func() {
			for !stop.Load() {
				var st unix.Statfs_t
				if err := unix.Statfs(kit.GuestView, &st); err != nil || st.Type != first.Type {
					wrong.Add(1)
				}
				asked.Add(1)
			}
		}()
	}
	_, err := os.Stdin.Read(make([]byte, 1))
	stop.Store(true)
	before := asked.Load()
	time.Sleep(100 * time.Millisecond)
	fmt.Println("wrong", wrong.Load(), "asked", before > 0)
	if errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}
