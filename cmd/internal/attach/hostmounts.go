package attach

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

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
		if is, err = false, nil; !ownIsFirst() {
			is, err = mountIn(p.root, "", "/proc/1/mountinfo")
		}
	}
	if err != nil {
		return fmt.Errorf("cannot tell whether the process is in the host's own mount namespace: %w", err)
	}
	if is {
		return errHostMounts
	}
	return nil
}

// ownIsFirst reports that this process's own mount namespace, which no process of a guest is in, is that of process 1.
var ownIsFirst = sync.OnceValue(func() bool {
	is, err := mountIn(unix.AT_FDCWD, "/", "/proc/1/mountinfo")
	return is && err == nil
})

// mountIn reports that the mount of a file is in the table of another process. A mount is in one namespace, and no two
// mounts have the same number (mount_namespaces(7), mnt_alloc_id of fs/namespace.c).
func mountIn(dir int, path, table string) (bool, error) {
	var st unix.Statx_t
	err := unix.Statx(dir, path, unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_MNT_ID, &st)
	if err != nil {
		return false, os.NewSyscallError("statx", err)
	}
	if st.Mask&unix.STATX_MNT_ID == 0 {
		return false, errors.New("the kernel tells no mount's number (Linux 5.8)")
	}
	raw, err := os.ReadFile(table)
	if err != nil {
		return false, err
	}
	// Each line begins with the mount's number (proc_pid_mountinfo(5)).
	line := append(strconv.AppendUint([]byte{'\n'}, st.Mnt_id, 10), ' ')
	return bytes.HasPrefix(raw, line[1:]) || bytes.Contains(raw, line), nil
}
