package guest

import (
	"fmt"

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

// rules are those of the guest's filter. Without a user namespace of its own it may make none: in one, the host's root would have all
// capabilities again, and be the owner of the real cgroups. It can mount nothing then.
func (s initSetup) rules() notify.Rules {
	mounts := s.Userns || s.Privileged
	return notify.Rules{Type: !s.TypeGiven && !s.NoNotify, Mounts: mounts && !s.NoNotify, NoUserNamespaces: !mounts}
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
	err := notify.InstallPlain(notify.Filter(rules))
	if err != nil && !rules.NoUserNamespaces {
		return nil // the kernel has no filters, and none is needed to keep the guest in
	}
	return err
}
