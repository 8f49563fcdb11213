package doctor

import (
	"fmt"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// Bound checks whether a process can go around its view by mounting the real cgroupfs itself, as the root that owns
// these cgroups. The error reports a process that does not exist.
func Bound(pid int) (Check, error) {
	own, err := host.InOwnUserNamespace(pid)
	var p powers
	var ids []byte
	if err == nil {
		p, err = powersOf(pid)
	}
	if err == nil {
		ids, err = os.ReadFile("/proc/" + strconv.Itoa(pid) + "/uid_map")
	}
	if err != nil {
		return Check{}, fmt.Errorf("cannot look at process %d: %w", pid, err)
	}
	return bound("process "+strconv.Itoa(pid), own, own || mapsRoot(string(ids)), p, userNamespaces()), nil
}

// bound judges a process. own: it is in this process's user namespace. root: its user namespace maps the root of that.
func bound(name string, own, root bool, p powers, users bool) Check {
	const advisory = ": the view is advisory"
	switch {
	case !root:
		return Check{name, OK, "its root is not the host's: the real cgroups are out of its reach", ""}
	case !own:
		return Check{name, Less, "its user namespace maps the host's root, which may mount the real cgroupfs there" +
			advisory, "map other ids"}
	case p.may(unix.CAP_SYS_ADMIN):
		return Check{name, Less, "its root is the host's and may mount the real cgroupfs (CAP_SYS_ADMIN)" + advisory,
			"a user namespace, or take the capability from it"}
	case !p.filtered && users:
		return Check{name, Less,
			"its root is the host's, and no seccomp filter keeps it from a user namespace, in which it may mount the real " +
				"cgroupfs" + advisory,
			"the runtime's default seccomp profile, or a user namespace"}
	}
	found := "its root is the host's, and may mount nothing; no user namespace can be made on this host"
	if users {
		found = "its root is the host's, and may mount nothing, where its seccomp filter forbids user namespaces, as " +
			"runtimes' default profiles do"
	}
	if p.may(unix.CAP_MKNOD) {
		found += "; its devices cgroup has to keep it from the host's disks (CAP_MKNOD)"
	}
	return Check{name, OK, found + "; the host's files that it sees it may write as root", ""}
}

// powers are the upper bounds of a process's rights.
type powers struct {
	bounding uint64 // capabilities
	filtered bool   // by seccomp
}

func (p powers) may(capability int) bool { return p.bounding&(1<<capability) != 0 }

func powersOf(pid int) (p powers, err error) {
	// A kernel without seccomp has no such line.
	filter, _ := host.StatusMask(pid, "Seccomp:")
	p.filtered = filter != 0
	p.bounding, err = host.StatusMask(pid, "CapBnd:")
	return p, err
}

// mapsRoot reports that a table of ids includes this process's own root.
func mapsRoot(ids string) bool {
	return slices.ContainsFunc(host.IDRanges(ids), func(r host.IDRange) bool { return r.Outside == 0 })
}
