package notify

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Rules say what a filter does. clone3 is ENOSYS by each: with CLONE_INTO_CGROUP it takes no directory of a view, for EBADF programs do
// not fall back to clone, and its flags are out of a filter's reach.
type Rules struct {
	Type   bool // statfs and fstatfs ask the listener
	Mounts bool // mount, where it is to make a new mount, and fsopen ask the listener
	// NoUserNamespaces makes setns EPERM, and clone and unshare with CLONE_NEWUSER, and all calls by another architecture's numbers ENOSYS.
	// setns without a type joins a user namespace, too, and what is joined is known by a descriptor only.
	NoUserNamespaces bool
	// NoInput makes EPERM the two ioctls by which a program types into its terminal, for whoever reads from it next: TIOCSTI, and TIOCLINUX,
	// which pastes. The kernel looks at the low half of the command only.
	NoInput bool
	NoKeys  bool // add_key, request_key and keyctl are EPERM: no namespace bounds keyrings, and a user has the same ones everywhere
}

// Listens says whether a filter by these rules wants a listener.
func (r Rules) Listens() bool { return r.Type || r.Mounts }

// Offsets in struct seccomp_data of include/uapi/linux/seccomp.h; of an argument the low half, little-endian.
const (
	dataNr   = 0
	dataArch = 4
	dataArgs = 16
	argSize  = 8
)

const errnoMask = 0xffff // SECCOMP_RET_DATA

// Filter makes the program. Calls of which it says nothing are allowed after a look at architecture and number alone, which the kernel
// then does without the program (seccomp_cache_prepare, Linux 5.11).
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

// program is a filter that is being written.
type program []unix.SockFilter

func (f *program) add(code uint16, k uint32, yes, no uint8) {
	*f = append(*f, unix.SockFilter{Code: code, Jt: yes, Jf: no, K: k})
}

func (f *program) load(offset uint32) { f.add(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, offset, 0, 0) }

func (f *program) ret(k uint32) { f.add(unix.BPF_RET|unix.BPF_K, k, 0, 0) }

func (f *program) refuse(e unix.Errno) { f.ret(unix.SECCOMP_RET_ERRNO | uint32(e)&errnoMask) }

// unless jumps to where here is called with its result, if what was loaded is not k.
func (f *program) unless(k uint32) int {
	f.add(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, k, 0, 0)
	return len(*f) - 1
}

func (f *program) here(jump int) { (*f)[jump].Jf = uint8(len(*f) - jump - 1) }

// arch writes what is done with the calls of one architecture, whose number is loaded.
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

// mount asks the listener where the flags are those of a new mount (newMount).
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

func (f *program) userNamespaces() {
	f.load(dataArgs)
	f.add(unix.BPF_JMP|unix.BPF_JSET|unix.BPF_K, unix.CLONE_NEWUSER, 0, 1)
	f.refuse(unix.EPERM)
	f.ret(unix.SECCOMP_RET_ALLOW)
}

// The commands of NoInput (include/uapi/asm-generic/ioctls.h).
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

// Install puts a filter on this thread and all that come of it, and gives its listener, closed on exec. Without no_new_privs it needs
// CAP_SYS_ADMIN: EACCES. EBUSY where a filter with a listener holds already.
func Install(filter []unix.SockFilter) (listener int, err error) {
	const flags = unix.SECCOMP_FILTER_FLAG_NEW_LISTENER
	// A caller that waits for an answer is then not woken by signals that do not end it, so that no call is made twice (Linux 5.19).
	listener, err = install(filter, flags|unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV)
	if errors.Is(err, unix.EINVAL) {
		listener, err = install(filter, flags)
	}
	return listener, err
}

// InstallPlain puts a filter on this thread and all that come of it, whose rules want no listener or are to have none: to ask is then
// ENOSYS.
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
