package run

import (
	"fmt"
	"os"

	"github.com/moby/sys/capability"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/notify"
)

// containerCaps is what a container's root has where nobody says otherwise, without CAP_MKNOD: a device file would be the
// way around the view.
var containerCaps = []capability.Cap{
	capability.CAP_AUDIT_WRITE, capability.CAP_CHOWN, capability.CAP_DAC_OVERRIDE, capability.CAP_FOWNER,
	capability.CAP_FSETID, capability.CAP_KILL, capability.CAP_NET_BIND_SERVICE, capability.CAP_NET_RAW, capability.CAP_SETFCAP,
	capability.CAP_SETGID, capability.CAP_SETPCAP, capability.CAP_SETUID, capability.CAP_SYS_CHROOT,
}

// dropPrivileges leaves this thread a container's capabilities.
func dropPrivileges() error {
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

// rules are those of the guest's filter. Without a user namespace of its own it may make or join none: in one, the host's root would have
// all capabilities again, and be the owner of the real cgroups. It can mount nothing then, and the host's root has keys that are not the
// guest's. Whatever the form, its terminal is the caller's, who goes on to read from it.
func (s initSetup) rules() notify.Rules {
	mounts := s.Userns || s.Privileged
	return notify.Rules{
		Type: !s.TypeGiven && !s.NoNotify, Mounts: mounts && !s.NoNotify, NoUserNamespaces: !mounts, NoInput: true, NoKeys: !mounts,
	}
}

// filterCalls puts the guest's filter on this thread and all that come of it, and hands its listener over. With CAP_SYS_ADMIN, which
// this thread still has, no_new_privs is not needed, and set-user-id programs keep working. A guest of a guest whose filter has a listener
// gets none (EBUSY): there the outer one answers for its own view.
func filterCalls(s initSetup) error {
	rules := s.rules()
	if rules.Listens() {
		listener, err := notify.Install(notify.Filter(rules))
		if err == nil {
			defer unix.Close(listener)
			return sendListener(initListener, listener)
		}
		rules.Type, rules.Mounts = false, false
	}
	return notify.InstallPlain(notify.Filter(rules))
}

// leaveKeys gives this thread, and all that come of it, a session keyring of their own: that of the caller would be in their possession,
// whoever they are. A kernel without keys has none to leave, and where an outer filter refuses keyctl nobody in the guest gets at them.
func leaveKeys() error {
	const noName = 0 // a keyring with a name, if only an empty one, is the same for all who join it
	_, _, errno := unix.Syscall(unix.SYS_KEYCTL, unix.KEYCTL_JOIN_SESSION_KEYRING, noName, 0)
	if errno == 0 || errno == unix.ENOSYS || errno == unix.EPERM {
		return nil
	}
	return fmt.Errorf("cannot leave the caller's session keyring: %w", os.NewSyscallError("keyctl", errno))
}
