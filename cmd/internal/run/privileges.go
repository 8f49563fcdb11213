package run

import (
	"fmt"
	"os"

	"github.com/moby/sys/capability"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/notify"
)

// containerCaps are the default capabilities of a container's root, without CAP_MKNOD: a device file would bypass the
// view.
var containerCaps = []capability.Cap{
	capability.CAP_AUDIT_WRITE, capability.CAP_CHOWN, capability.CAP_DAC_OVERRIDE, capability.CAP_FOWNER,
	capability.CAP_FSETID, capability.CAP_KILL, capability.CAP_NET_BIND_SERVICE, capability.CAP_NET_RAW,
	capability.CAP_SETFCAP,
	capability.CAP_SETGID, capability.CAP_SETPCAP, capability.CAP_SETUID, capability.CAP_SYS_CHROOT,
}

// dropPrivileges reduces this thread's capabilities to a container's.
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

// rules returns the rules of the guest's filter. A guest without a user namespace of its own may make or join none: in
// one, the host's root would have all capabilities again, and own the real cgroups. Such a guest can mount nothing, and
// the host's root has keys that are not the guest's. In every form the guest's terminal is the caller's, which reads
// from it afterwards.
func (s initSetup) rules() notify.Rules {
	mounts := s.Userns || s.Privileged
	return notify.Rules{
		Type: !s.TypeGiven && !s.NoNotify, Mounts: mounts && !s.NoNotify, NoUserNamespaces: !mounts, NoInput: true,
		NoKeys: !mounts, Proc: s.Proc && !s.NoNotify,
	}
}

// filterCalls puts the guest's filter on this thread and its descendants, and sends the filter's listener to "run".
// With CAP_SYS_ADMIN, which this thread still has, no_new_privs is not needed, and set-user-id programs keep working. A
// guest of a guest whose filter has a listener gets none (EBUSY): there the outer listener answers for its own view.
func filterCalls(s initSetup) error {
	rules := s.rules()
	if rules.Listens() {
		listener, err := notify.Install(notify.Filter(rules))
		if err == nil {
			defer unix.Close(listener)
			return sendListener(initListener, listener)
		}
		rules.Type, rules.Mounts, rules.Proc = false, false, false
	}
	return notify.InstallPlain(notify.Filter(rules))
}

// leaveKeys gives this thread and its descendants a session keyring of their own: they would possess the caller's, with
// any uid. A kernel without keys has none to leave, and an outer filter that refuses keyctl refuses it to the guest,
// too.
func leaveKeys() error {
	// A keyring with a name, even an empty one, is the same for all that join it.
	const noName = 0
	_, _, errno := unix.Syscall(unix.SYS_KEYCTL, unix.KEYCTL_JOIN_SESSION_KEYRING, noName, 0)
	if errno == 0 || errno == unix.ENOSYS || errno == unix.EPERM {
		return nil
	}
	return fmt.Errorf("cannot leave the caller's session keyring: %w", os.NewSyscallError("keyctl", errno))
}
