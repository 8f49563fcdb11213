// Package doctor checks this host, finds a process's file system at /sys/fs/cgroup, and lists the programs that accept
// it.
package doctor

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/runtimes"
	"github.com/vcgroupfs/vcgroupfs/fs/conn"
	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// The states of a check.
const (
	OK   = "ok"
	Less = "less" // works, with a restriction
	Bad  = "bad"  // nothing works before the remedy
)

// Check is the result of one check.
type Check struct {
	Name  string `json:"name"`
	State string `json:"state"`
	Found string `json:"found"`
	Do    string `json:"do,omitempty"` // the remedy, unless the state is ok
}

// Host checks this host. It changes nothing, and waits for the daemon at the socket a second at most.
func Host(ctx context.Context, socket string) []Check {
	h, err := host.Open()
	checks := []Check{privileges(), device()}
	if err != nil {
		checks = append(checks, Check{"hierarchies", Bad, err.Error(), "mount cgroup v2 (or v1) at /sys/fs/cgroup"})
	} else {
		defer h.Close()
		checks = append(checks, hierarchies(h), handles(h))
		if !guest(h) {
			// In a guest it is the host's task.
			checks = append(checks, nsdelegate())
		}
		checks = append(checks, memory(h)...)
		checks = append(checks, pids(h))
	}
	return append(checks, kernel(), transport(), connections(), users(), fileSystemType(ctx, socket), daemon(ctx, socket),
		installed())
}

func privileges() Check {
	const name = "privileges"
	own, _ := host.StatusMask(os.Getpid(), "CapEff:")
	var missing []string
	for _, c := range []struct {
		bit  int
		name string
	}{{unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN"}, {unix.CAP_DAC_READ_SEARCH, "CAP_DAC_READ_SEARCH"},
		{unix.CAP_SYS_PTRACE, "CAP_SYS_PTRACE"}} {
		if own&(1<<c.bit) == 0 {
			missing = append(missing, c.name)
		}
	}
	if len(missing) == 0 {
		return Check{name, OK, "this process may mount views and look into guests", ""}
	}
	return Check{name, Bad, "this process lacks " + strings.Join(missing, ", "),
		"run as root, outside of containers; a guest needs them in its user namespace to have guests (docs/nesting.md)"}
}

func device() Check {
	const name = "/dev/fuse"
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return Check{name, Bad, err.Error(), "modprobe fuse; in a container, give it the device"}
	}
	unix.Close(fd)
	return Check{name, OK, "can be opened", ""}
}

func hierarchies(h *host.Host) Check {
	var v1, v2 []string
	var readOnly []string
	for _, t := range h.Hierarchies() {
		if t.Version == hierarchy.V2 {
			v2 = append(v2, t.Controllers...)
		} else {
			v1 = append(v1, t.String())
		}
		if t.ReadOnly {
			readOnly = append(readOnly, t.Mountpoint)
		}
	}
	found := "v2 with " + strings.Join(v2, ", ")
	if len(v1) > 0 {
		found = "v1: " + strings.Join(v1, ", ")
		if h.Hierarchy(hierarchy.Unified) != nil {
			found += "; v2 with " + or(strings.Join(v2, ", "), "no controller")
		}
	}
	if guest(h) {
		found = "this is a guest, whose guests are bounded by its own view; " + found
	}
	if len(readOnly) > 0 {
		return Check{"hierarchies", Less, found + "; read-only: " + strings.Join(readOnly, ", "),
			"mount -o remount,rw " + readOnly[0] + " where guests are to change something"}
	}
	return Check{"hierarchies", OK, found, ""}
}

// guest reports that this host is itself a guest.
func guest(h *host.Host) bool { return h.Hierarchies()[0].View }

func or(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

func handles(h *host.Host) Check {
	if h.Features().Handles {
		return Check{"file handles of cgroups", OK, "a daemon's worker that dies is replaced, and guests do not notice", ""}
	}
	if guest(h) {
		return Check{"file handles of cgroups", Less,
			"a view has none: when a daemon's worker dies, paths go on to work, and directories that are open do not", ""}
	}
	return Check{"file handles of cgroups", Less,
		"refused: when a daemon's worker dies, paths go on to work, and directories that are open do not",
		"run with CAP_DAC_READ_SEARCH"}
}

// nsdelegate checks whether the kernel itself bounds the writes of a cgroup namespace: beside the view, for a guest
// that mounts cgroup2.
func nsdelegate() Check {
	const name = "nsdelegate"
	raw, _ := os.ReadFile("/proc/self/mountinfo")
	mounts, err := hierarchy.ParseMounts(raw)
	if err != nil {
		return Check{name, Less, err.Error(), "mount /proc"}
	}
	for _, m := range mounts {
		switch {
		case m.Version != hierarchy.V2 || m.View:
		case slices.Contains(m.Options, "nsdelegate"):
			return Check{name, OK, "the kernel bounds a guest that mounts cgroup2 itself, too", ""}
		default:
			return Check{name, Less,
				"cgroup2 is mounted without it: a privileged guest that mounts cgroup2 itself is not bounded by its namespace",
				"mount -o remount,nsdelegate on the cgroup2 mount of the host"}
		}
	}
	return Check{name, OK, "no cgroup2 is mounted", ""}
}

// memory checks a v1 memory hierarchy in which limits do not hold for the cgroups below.
func memory(h *host.Host) []Check {
	t := h.Hierarchy("memory")
	if t == nil {
		return nil
	}
	if nests, err := t.MemoryNests(); err != nil || nests {
		return nil
	}
	return []Check{{"memory limits", Less, "memory.use_hierarchy is 0: a limit does not hold for the cgroups below, so " +
		"boundaries that are there are refused; run makes its own with 1",
		"echo 1 > " + t.Mountpoint + "/memory.use_hierarchy before the first cgroup is made there, as systemd does; or " +
			"Linux 5.11"}}
}

func pids(h *host.Host) Check {
	if h.Features().PidnsIoctl {
		return Check{"pid numbers", OK, "asked of the kernel (Linux 6.11)", ""}
	}
	return Check{"pid numbers", Less, "found by reading /proc, which costs more with many processes",
		"Linux 6.11 or newer"}
}

// kernel lists the features of newer kernels.
func kernel() Check {
	var u unix.Utsname
	unix.Uname(&u)
	release := unix.ByteSliceToString(u.Release[:])
	var lacks []string
	for _, f := range []struct {
		minor int
		offer conn.Offer // 0: only the version tells
		what  string
	}{
		{5, 0, "a view takes the place of what a runtime mounted without a gap"},
		{9, conn.OfferResend, "a worker's death fails no request"},
		{9, conn.OfferPassthrough, "reads pass the daemon by"}, {12, conn.OfferIDMap, "views can be mounted with mapped ids"},
	} {
		has, err := conn.Offers(f.offer)
		if f.offer == 0 || err != nil {
			has = conn.KernelAtLeast(6, f.minor)
		}
		if !has {
			lacks = append(lacks, fmt.Sprintf("%s (6.%d)", f.what, f.minor))
		}
	}
	if len(lacks) == 0 {
		return Check{"kernel", OK, "Linux " + release, ""}
	}
	return Check{"kernel", Less, "Linux " + release + " has not: " + strings.Join(lacks, "; "), "a newer kernel"}
}

// transport says how the requests of mount and run come. The classic way lacks nothing, so it is no restriction.
func transport() Check {
	const name = "transport"
	if err := conn.CheckURing(); err != nil {
		return Check{name, OK, "/dev/fuse; " + err.Error(), ""}
	}
	return Check{name, OK, "io_uring for mount and run, /dev/fuse for the daemon", ""}
}

func connections() Check {
	const dir = "/sys/fs/fuse/connections"
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err == nil && st.Type == 0x65735543 {
		// FUSE_CTL_SUPER_MAGIC of fs/fuse/control.c.
		return Check{"fusectl", OK, "a connection that hangs can be ended by hand", ""}
	}
	return Check{"fusectl", Less, "not mounted: a connection that hangs cannot be ended by hand",
		"mount -t fusectl fusectl " + dir}
}

func users() Check {
	if !userNamespaces() {
		return Check{"user namespaces", Less,
			"none can be made: a guest's root is the host's, and only its capabilities bound it",
			"sysctl user.max_user_namespaces=65536"}
	}
	return Check{"user namespaces", OK, "can be made", ""}
}

// userNamespaces reports that user namespaces can be made on this host.
func userNamespaces() bool {
	raw, err := os.ReadFile("/proc/sys/user/max_user_namespaces")
	return err == nil && strings.TrimSpace(string(raw)) != "0"
}

func daemon(ctx context.Context, socket string) Check {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	client := api.NewClient(socket)
	defer client.Close()
	info, err := client.Info(ctx)
	switch {
	case fault.Of(err) == fault.NoDaemon:
		return Check{"daemon", Less, "not running at " + socket + "; run and mount need none",
			"systemctl start vcgroupfs, or vcgroupfs serve"}
	case err != nil:
		return Check{"daemon", Less, err.Error(), "ask as root, on the host"}
	case info.Resend != conn.CanResend():
		return Check{"daemon", Less, "its kernel is another one's", "ask the daemon of this host"}
	}
	if err := client.Health(ctx); err != nil {
		return Check{"daemon", Less, err.Error(), "see its log"}
	}
	return Check{"daemon", OK, fmt.Sprintf("version %s, %d guests, %d restarts", info.Version, info.Guests, info.Restarts),
		""}
}

// installed lists the installed runtimes, each with its way to give a container its view.
func installed() Check {
	var found []string
	for _, r := range runtimes.All() {
		if r.Program == "" {
			continue
		}
		if _, err := exec.LookPath(r.Program); err == nil {
			found = append(found, r.Program+" ("+r.How+")")
		}
	}
	if len(found) == 0 {
		return Check{"runtimes", OK, "none that is known; vcgroupfs run needs none", ""}
	}
	return Check{"runtimes", OK, strings.Join(found, ", ") + "; see docs/runtimes.md", ""}
}
