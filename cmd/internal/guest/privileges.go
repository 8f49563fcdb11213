package guest

import (
	"fmt"
	"unsafe"

	"github.com/moby/sys/capability"
	"golang.org/x/sys/unix"
)

// containerCaps is what a container's root has where nobody says otherwise, without CAP_MKNOD: a device file would be the
// way around the view.
var containerCaps = []capability.Cap{
	capability.CAP_AUDIT_WRITE, capability.CAP_CHOWN, capability.CAP_DAC_OVERRIDE, capability.CAP_FOWNER,
	capability.CAP_FSETID, capability.CAP_KILL, capability.CAP_NET_BIND_SERVICE, capability.CAP_NET_RAW, capability.CAP_SETFCAP,
	capability.CAP_SETGID, capability.CAP_SETPCAP, capability.CAP_SETUID, capability.CAP_SYS_CHROOT,
}

// dropPrivileges leaves this thread a container's capabilities. Without a user namespace it may make none either: in one,
// the host's root would have all capabilities again, and be the owner of the real cgroups.
func dropPrivileges(userns bool) error {
	if !userns {
		if err := forbidUserNamespaces(); err != nil {
			return fmt.Errorf("cannot forbid user namespaces to the guest: %w", err)
		}
	}
	c, err := capability.NewPid2(0)
	if err != nil {
		return fmt.Errorf("cannot read capabilities: %w", err)
	}
	if err := c.Load(); err != nil {
		return fmt.Errorf("cannot read capabilities: %w", err)
	}
	for _, have := range capability.ListKnown() {
		keep := false
		for _, k := range containerCaps {
			keep = keep || k == have && c.Get(capability.BOUNDING, have)
		}
		if !keep {
			c.Unset(capability.CAPS|capability.BOUNDING|capability.AMBIENT, have)
		}
	}
	c.Clear(capability.AMBIENT)
	c.Unset(capability.INHERITABLE, capability.ListKnown()...)
	if err := c.Apply(capability.CAPS | capability.BOUNDS | capability.AMBS); err != nil {
		return fmt.Errorf("cannot drop capabilities: %w", err)
	}
	return nil
}

// The offsets of struct seccomp_data (include/uapi/linux/seccomp.h), little-endian.
const (
	dataNr    = 0
	dataArch  = 4
	dataArg0  = 16
	errnoMask = 0xffff
)

// forbidUserNamespaces puts a filter on this thread and all that come of it: clone and unshare with CLONE_NEWUSER are
// EPERM, clone3 is ENOSYS (its flags are out of a filter's reach; C libraries then use clone), and so is every call by
// another architecture's numbers.
func forbidUserNamespaces() error {
	jump := func(op uint16, k uint32, yes, no uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | op | unix.BPF_K, Jt: yes, Jf: no, K: k}
	}
	load := func(at uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: at}
	}
	answer := func(k uint32) unix.SockFilter { return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: k} }
	refuse := func(e unix.Errno) unix.SockFilter {
		return answer(unix.SECCOMP_RET_ERRNO | uint32(e)&errnoMask)
	}
	filter := []unix.SockFilter{
		load(dataArch),
		jump(unix.BPF_JEQ, auditArch, 0, 9), // to ENOSYS
		load(dataNr),
		jump(unix.BPF_JGE, x32Bit, 7, 0), // x32 calls have numbers of their own
		jump(unix.BPF_JEQ, unix.SYS_CLONE3, 6, 0),
		jump(unix.BPF_JEQ, unix.SYS_CLONE, 1, 0),
		jump(unix.BPF_JEQ, unix.SYS_UNSHARE, 0, 3), // to allow
		load(dataArg0),
		jump(unix.BPF_JSET, unix.CLONE_NEWUSER, 0, 1),
		refuse(unix.EPERM),
		answer(unix.SECCOMP_RET_ALLOW),
		refuse(unix.ENOSYS),
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	// With CAP_SYS_ADMIN, which this thread still has, no_new_privs is not needed, and set-user-id programs keep working.
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&program))); errno != 0 {
		return errno
	}
	return nil
}
