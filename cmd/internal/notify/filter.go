package notify

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Rules choose the calls that a filter stops. Every filter makes clone3 ENOSYS. With CLONE_INTO_CGROUP it accepts no
// directory of a view, and programs do not fall back to clone for EBADF; its flags are out of a filter's reach.
type Rules struct {
	Type   bool // statfs and fstatfs ask the listener
	Mounts bool // mount, if it makes a new mount, and fsopen ask the listener
	// Proc makes open and openat ask the listener if they open for reading alone, and openat2, whose flags are out of a
	// filter's reach.
	Proc bool
	// NoUserNamespaces makes setns EPERM, also clone and unshare with CLONE_NEWUSER, and makes all calls by another
	// architecture's numbers ENOSYS. setns without a type joins a user namespace too, and a filter sees only the
	// descriptor of the namespace.
	NoUserNamespaces bool
	// NoInput makes two ioctls EPERM by which a program types into its terminal, for the next reader of the terminal:
	// TIOCSTI, and TIOCLINUX, which pastes. The kernel uses the low half of the command only.
	NoInput bool
	// NoKeys makes add_key, request_key and keyctl EPERM: no namespace bounds keyrings, and a user has the same ones
	// everywhere.
	NoKeys bool
}

// Listens reports that a filter by these rules wants a listener.
func (r Rules) Listens() bool { return r.Type || r.Mounts || r.Proc }

// Offsets in struct seccomp_data of include/uapi/linux/seccomp.h. For an argument: its low half, little-endian.
const (
	dataNr   = 0
	dataArch = 4
	dataArgs = 16
	argSize  = 8
)

const errnoMask = 0xffff // SECCOMP_RET_DATA

// Filter makes the program. It allows all other calls by architecture and number alone. The kernel then allows them
// without running the program (seccomp_cache_prepare, Linux 5.11).
func Filter(r Rules) []unix.SockFilter {
	f := program{}
	for i, a := range arches {
		f.load(dataArch)
		next := f.unless(a.audit)
		switch {
		case i > 0 && r.NoUserNamespaces:
			f.refuse(unix.ENOSYS)
		default:
			f.load(dataNr)
			f.arch(a, r)
		}
		f.here(next)
	}
	if r.NoUserNamespaces || r.NoInput {
		f.refuse(unix.ENOSYS)
	} else {
		f.ret(unix.SECCOMP_RET_ALLOW)
	}
	return f
}

// program is a filter under construction.
type program []unix.SockFilter

func (f *program) add(code uint16, k uint32, yes, no uint8) {
	*f = append(*f, unix.SockFilter{Code: code, Jt: yes, Jf: no, K: k})
}

func (f *program) load(offset uint32) { f.add(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, offset, 0, 0) }

func (f *program) ret(k uint32) { f.add(unix.BPF_RET|unix.BPF_K, k, 0, 0) }

func (f *program) refuse(e unix.Errno) { f.ret(unix.SECCOMP_RET_ERRNO | uint32(e)&errnoMask) }

// unless jumps to the matching here if the loaded value is not k. here takes the result of unless.
func (f *program) unless(k uint32) int {
	f.add(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, k, 0, 0)
	return len(*f) - 1
}

func (f *program) here(jump int) { (*f)[jump].Jf = uint8(len(*f) - jump - 1) }

// arch writes the rules for the calls of one architecture. The call's number is loaded.
func (f *program) arch(a arch, r Rules) {
	if a.foreign != 0 {
		f.add(unix.BPF_JMP|unix.BPF_JGE|unix.BPF_K, a.foreign, 0, 1)
		f.refuse(unix.ENOSYS)
	}
	when := func(c call, then func()) {
		if nr, ok := a.numbers[c]; ok {
			no := f.unless(nr)
			then()
			f.here(no)
		}
	}
	ask := func() { f.ret(unix.SECCOMP_RET_USER_NOTIF) }
	deny := func() { f.refuse(unix.EPERM) }
	when(callClone3, func() { f.refuse(unix.ENOSYS) })
	if r.Type {
		for _, c := range []call{callStatfs, callFstatfs, callStatfs64, callFstatfs64} {
			when(c, ask)
		}
	}
	if r.Mounts {
		when(callFsopen, ask)
		when(callMount, f.mount)
	}
	if r.Proc {
		when(callOpenat, func() { f.open(2) })
		when(callOpen, func() { f.open(1) })
		when(callOpenat2, ask)
	}
	if r.NoUserNamespaces {
		for _, c := range []call{callClone, callUnshare} {
			when(c, f.userNamespaces)
		}
		when(callSetns, deny)
	}
	if r.NoInput {
		when(callIoctl, f.input)
	}
	if r.NoKeys {
		for _, c := range []call{callAddKey, callRequestKey, callKeyctl} {
			when(c, deny)
		}
	}
	f.ret(unix.SECCOMP_RET_ALLOW)
}

// mount asks the listener if the flags ask for a new mount (newMount).
func (f *program) mount() {
	const flags = dataArgs + 3*argSize
	test := func(mask uint32) {
		f.load(flags)
		f.add(unix.BPF_JMP|unix.BPF_JSET|unix.BPF_K, mask, 0, 1)
		f.ret(unix.SECCOMP_RET_ALLOW)
		f.ret(unix.SECCOMP_RET_USER_NOTIF)
	}
	f.load(flags)
	f.add(unix.BPF_ALU|unix.BPF_AND|unix.BPF_K, mgcMask, 0, 0)
	plain := f.unless(unix.MS_MGC_VAL)
	test(notNewLow)
	f.here(plain)
	test(notNew)
}

// open asks the listener if the flags, an argument, are those of a reader.
func (f *program) open(flags uint32) {
	f.load(dataArgs + flags*argSize)
	f.add(unix.BPF_JMP|unix.BPF_JSET|unix.BPF_K, notReading, 0, 1)
	f.ret(unix.SECCOMP_RET_ALLOW)
	f.ret(unix.SECCOMP_RET_USER_NOTIF)
}

func (f *program) userNamespaces() {
	f.load(dataArgs)
	f.add(unix.BPF_JMP|unix.BPF_JSET|unix.BPF_K, unix.CLONE_NEWUSER, 0, 1)
	f.refuse(unix.EPERM)
	f.ret(unix.SECCOMP_RET_ALLOW)
}

// Commands of NoInput (include/uapi/asm-generic/ioctls.h).
const (
	tiocsti   = 0x5412
	tioclinux = 0x541c
)

func (f *program) input() {
	f.load(dataArgs + argSize)
	for _, command := range []uint32{tiocsti, tioclinux} {
		other := f.unless(command)
		f.refuse(unix.EPERM)
		f.here(other)
	}
	f.ret(unix.SECCOMP_RET_ALLOW)
}

// Install installs a filter on this thread and its descendants, and returns the listener, closed on exec. EACCES
// without CAP_SYS_ADMIN or no_new_privs; EBUSY if a filter with a listener is installed already.
func Install(filter []unix.SockFilter) (listener int, err error) {
	const flags = unix.SECCOMP_FILTER_FLAG_NEW_LISTENER
	// WAIT_KILLABLE_RECV: only a fatal signal wakes a caller whose call was received, so that no call is made twice (Linux
	// 5.19).
	listener, err = install(filter, flags|unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV)
	if errors.Is(err, unix.EINVAL) {
		listener, err = install(filter, flags)
	}
	return listener, err
}

// InstallPlain installs a filter without a listener on this thread and its descendants. A call that the filter sends to
// a listener is then ENOSYS. Errors as for Install.
func InstallPlain(filter []unix.SockFilter) error {
	_, err := install(filter, 0)
	return err
}

func install(filter []unix.SockFilter, flags uintptr) (int, error) {
	p := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&p)))
	if errno != 0 {
		return -1, fmt.Errorf("cannot install a seccomp filter: %w", os.NewSyscallError("seccomp", errno))
	}
	return int(fd), nil
}
