package attach

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// notHosts returns an error if the mount namespace is this process's own or the host's, that of process 1. A daemon may
// have a mount namespace of its own (a container, a unit with PrivateMounts=); its attaching in the host's would cover
// the host's cgroups.
func (p *place) notHosts() error {
	var theirs unix.Stat_t
	if err := unix.Fstat(p.ns, &theirs); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	own, err := host.OwnNamespace(p.ns, "mnt")
	if err != nil {
		return err
	}
	if own {
		return errHostMounts
	}
	first, err := host.MountNamespace(1)
	is := err == nil && first == theirs.Ino
	switch {
	case errors.Is(err, unix.ESRCH):
		// procfs hides process 1, or belongs to a pid namespace that has none any more.
		err = nil
	case err != nil:
		// Process 1 has a capability that this process lacks (ptrace(2), PTRACE_MODE_READ). Its mountinfo requires none.
		is, err = p.sameNamespaceAs("/proc/1/mountinfo")
	}
	if err != nil {
		return fmt.Errorf("cannot tell whether the process is in the host's own mount namespace: %w", err)
	}
	if is {
		return errHostMounts
	}
	return nil
}

// sameNamespaceAs reports that a mount of the process is in another process's table, too. A mount is in one namespace,
// and no two mounts have the same number (mount_namespaces(7), mnt_alloc_id of fs/namespace.c).
func (p *place) sameNamespaceAs(table string) (bool, error) {
	_, err := p.mounts.Seek(0, 0)
	if err != nil {
		return false, err
	}
	theirs, err := hierarchy.ReadMounts(p.mounts, nil)
	if err != nil {
		return false, err
	}
	ids := map[int]bool{}
	for _, m := range theirs {
		ids[m.ID] = true
	}
	shared, err := host.MountTable(table, nil)
	return slices.ContainsFunc(shared, func(m *mountinfo.Info) bool { return ids[m.ID] }), err
}
