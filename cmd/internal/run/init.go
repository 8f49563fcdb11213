package run

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/attach"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// InitCommand is the argument that makes this program the first process of a guest. It is not for users.
const InitCommand = "guest-init"

// Descriptors of the first process.
const (
	initMount    = 3 // of the view, mounted nowhere
	initSetupFD  = 4 // reading end: an initSetup, once the process is in its cgroups
	initResultFD = 5 // writing end: an initFailure; closed by execve
	initListener = 6 // a socket for sending the listener of the guest's filter
)

// Messages of one byte, beside initSetup and initFailure.
const (
	initReady  = 'r' // by the first process: it is set up
	initGo     = 'g' // to it: the limits are set
	initBegins = 'x' // by it: it becomes the command
)

// initSetup configures the first process.
type initSetup struct {
	Command    []string
	Userns     bool
	Privileged bool
	NoNotify   bool   // the guest's filter has no listener
	Proc       bool   // the guest's filter has opens answered
	TypeGiven  bool   // statfs of the view returns the right type without the guest's filter
	Cgroups    string // content of /proc/cgroups
	Dir        string // the working directory
	Below      []kernelMount
}

// initFailure is the first process's error when it cannot become the command.
type initFailure struct {
	Kind fault.Kind
	Text string
}

// Init is the first process of a guest. It returns only on failure, with the exit status.
func Init() int {
	// The thread unshares its own namespaces, and becomes the command.
	runtime.LockOSThread()
	// No more threads than necessary.
	runtime.GOMAXPROCS(1)
	err := keepStandardFDs()
	if err == nil {
		err = becomeCommand()
	}
	json.NewEncoder(os.NewFile(initResultFD, "result")).
		Encode(initFailure{fault.Of(fault.With(fault.RunFailed, err)), err.Error()})
	return fault.ExitRunFailed
}

// keepStandardFDs lets the command inherit input, output and errors, and none of vcgroupfs's other descriptors: one of
// a host directory would bypass every mount.
func keepStandardFDs() error {
	const first, last = 3, 1<<32 - 1
	// The flag exists since Linux 5.11.
	err := unix.CloseRange(first, last, unix.CLOSE_RANGE_CLOEXEC)
	if err == nil {
		return nil
	}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return fmt.Errorf("cannot keep descriptors from the guest: %w", err)
	}
	for _, e := range entries {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd >= first {
			unix.CloseOnExec(fd)
		}
	}
	return nil
}

// sendSetup writes a set-up for receiveSetup. Nothing follows it, as the newline of an Encoder would: of a text that
// ends with the receiver's buffer that would be left, and read for the next order.
func sendSetup(w io.Writer, s initSetup) error {
	text, err := json.Marshal(s)
	if err == nil {
		_, err = w.Write(text)
	}
	return err
}

// receiveSetup reads a set-up, and nothing of what follows it later.
func receiveSetup(r io.Reader, s *initSetup) error { return json.NewDecoder(r).Decode(s) }

func becomeCommand() error {
	var s initSetup
	orders := os.NewFile(initSetupFD, "setup")
	// awaitGo reads from it, too.
	defer runtime.KeepAlive(orders)
	if err := receiveSetup(orders, &s); err != nil {
		return fmt.Errorf("cannot read the set-up of the guest: %w", err)
	}
	// The root of the cgroup namespace is this process's present cgroup: the boundaries.
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("cannot make a cgroup namespace: %w", err)
	}
	if err := leaveKeys(); err != nil {
		return err
	}
	if err := setMounts(s); err != nil {
		return err
	}
	// The working directory may be on a mount that is gone or covered now, such as a real cgroup. Its path leads
	// elsewhere.
	if os.Chdir(s.Dir) != nil {
		if err := os.Chdir("/"); err != nil {
			return fmt.Errorf("cannot leave the host's working directory: %w", err)
		}
	}
	path, err := exec.LookPath(s.Command[0])
	if err != nil && !errors.Is(err, exec.ErrDot) {
		return commandError(s.Command[0], err)
	}
	if err := filterCalls(s); err != nil {
		return fmt.Errorf("cannot put a filter on the guest's calls: %w", err)
	}
	if !s.Privileged {
		if err := dropPrivileges(); err != nil {
			return err
		}
	}
	env := os.Environ()
	debug.FreeOSMemory()
	if err := awaitGo(); err != nil {
		return err
	}
	return commandError(s.Command[0], syscall.Exec(path, s.Command, env))
}

// awaitGo reports that the guest is set up, waits until the limits are set, and reports that the command begins. The
// limits may permit no further thread, and Go's runtime starts one for a call that it knows to block.
func awaitGo() error {
	said := []byte{initReady, initBegins}
	answer := []byte{0}
	do := func(call uintptr, fd int, b *byte) bool {
		for {
			n, _, errno := unix.RawSyscall(call, uintptr(fd), uintptr(unsafe.Pointer(b)), 1)
			if errno != unix.EINTR {
				return errno == 0 && n == 1
			}
		}
	}
	if !do(unix.SYS_WRITE, initResultFD, &said[0]) || !do(unix.SYS_READ, initSetupFD, &answer[0]) || answer[0] != initGo ||
		!do(unix.SYS_WRITE, initResultFD, &said[1]) {
		return errors.New("cannot start the command: whoever sets its limits has ended")
	}
	return nil
}

// commandError returns a shell's status: 127 for a command that does not exist, 126 for one that cannot be executed.
func commandError(name string, err error) error {
	kind := fault.NotExecutable
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, exec.ErrNotFound) {
		kind = fault.NoCommand
	}
	var e *exec.Error
	if errors.As(err, &e) {
		err = e.Err
	}
	return fault.New(kind, "cannot execute %s: %w", name, err)
}

// viewPath is the path of the view in the guest.
const viewPath = "/sys/fs/cgroup"

// setMounts makes the guest's mounts: the host's files, /proc, /sys and /dev of its own, and no cgroup file system but
// the view. With --privileged and no user namespace it keeps the host's mounts, except those of cgroups.
func setMounts(s initSetup) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("cannot make the guest's mounts private: %w", err)
	}
	switch {
	case s.Userns:
		// makeStage has made them before the user namespace.
		return mountGuestOnStage(s)
	case s.Privileged:
		if err := detachCgroups(); err != nil {
			return err
		}
	default:
		if err := keepFiles(anew{procStays: true}); err != nil {
			return err
		}
	}
	return mountGuest(s)
}

// mountGuestOnStage enters the stage, mounts the guest's file systems there and unmounts the stage's own.
func mountGuestOnStage(s initSetup) error {
	stage, err := enterStage()
	if err != nil {
		return err
	}
	if err := mountGuest(s); err != nil {
		return err
	}
	return stage.leave()
}

// mountGuest mounts the file systems of the guest's own.
func mountGuest(s initSetup) error {
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("cannot mount the guest's /proc: %w", err)
	}
	if err := overmountCgroups(s.Cgroups); err != nil {
		return err
	}
	mountBelow(s.Below)
	if s.Userns {
		if err := keepWholeProc(); err != nil {
			return err
		}
	}
	if err := unix.MoveMount(initMount, "", unix.AT_FDCWD, viewPath, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("cannot mount the view: %w", &os.PathError{Op: "move_mount", Path: viewPath, Err: err})
	}
	if s.Privileged && !s.Userns {
		if hasQueues() {
			return ownQueues(queuesPath)
		}
		return nil
	}
	if err := mountOwn(); err != nil {
		return err
	}
	if s.Userns {
		return nil
	}
	return protectKernelFiles()
}

// keepWholeProc mounts a /proc without mounts over parts of it where the view will cover it. The guest can make user
// namespaces; there the kernel permits a mount of /proc only if it finds another one with nothing covered
// (mount_too_revealing).
func keepWholeProc() error {
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	at := viewPath + "/proc"
	err := attach.PathError("mount", viewPath, unix.Mount("tmpfs", viewPath, "tmpfs", flags, "mode=755,size=64k"))
	if err == nil {
		err = os.Mkdir(at, 0o555)
	}
	if err == nil {
		err = attach.PathError("mount", at, unix.Mount("proc", at, "proc", flags, ""))
	}
	if err != nil {
		return fmt.Errorf("cannot make /proc mountable in the guest: %w", err)
	}
	return nil
}

// detachCgroups unmounts every cgroup file system and every view of the mount namespace. A mount that no path leads to
// is out of the guest's reach, too.
func detachCgroups() error {
	raw, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	mounts, err := hierarchy.ParseMounts(raw)
	if err != nil {
		return fmt.Errorf("cannot read /proc/self/mountinfo: %w", err)
	}
	// The last mount goes first.
	for _, m := range slices.Backward(mounts) {
		err := byPath(m.Point, func(path string) error { return unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) })
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("cannot take the host's cgroups away: %w", &os.PathError{Op: "umount", Path: m.Point, Err: err})
		}
	}
	return nil
}

// overmountCgroups puts a file over /proc/cgroups, which no namespace bounds.
func overmountCgroups(text string) error {
	if _, err := os.Stat(attach.CgroupsPath); os.IsNotExist(err) {
		// Neither CONFIG_PROC_PID_CPUSET nor v1 support is built in.
		return nil
	}
	file, err := attach.CgroupsMount(viewPath, text)
	if err == nil {
		err = attach.PathError("move_mount", attach.CgroupsPath,
			unix.MoveMount(file, "", unix.AT_FDCWD, attach.CgroupsPath, unix.MOVE_MOUNT_F_EMPTY_PATH))
		unix.Close(file)
	}
	if err != nil {
		return fmt.Errorf("cannot make the guest's /proc/cgroups: %w", err)
	}
	return nil
}

// readOnlyPaths are the kernel's files by which the host's root controls the host without any capability. It must not
// even read maskedPaths. The lists are those of containers: runc, crun, containerd and Docker have the same.
var (
	readOnlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
	maskedPaths   = []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/sched_debug", "/proc/scsi",
		"/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware",
	}
)

// protectKernelFiles protects those files from a guest whose root is the host's.
func protectKernelFiles() error {
	for _, path := range maskedPaths {
		if err := hide(path); err != nil && !os.IsNotExist(err) {
			return fmt.Errorf("cannot protect %s: %w", path, err)
		}
	}
	for _, path := range readOnlyPaths {
		if _, err := os.Lstat(path); err != nil {
			continue
		}
		const flags = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
		err := unix.Mount(path, path, "", unix.MS_BIND|unix.MS_REC, "")
		if err == nil {
			err = unix.Mount("", path, "", unix.MS_BIND|unix.MS_REMOUNT|flags, "")
		}
		if err != nil {
			return fmt.Errorf("cannot protect %s: %w", path, err)
		}
	}
	return nil
}
