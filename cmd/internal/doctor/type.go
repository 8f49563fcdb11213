package doctor

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// Right says whether a process that asks statfs of its view is told the kernel's own type.
type Right string

const (
	RightYes     Right = "yes"
	RightNo      Right = "no"
	RightUnknown Right = "unknown" // it has a seccomp filter, and no one outside can see whether that notifies of statfs
)

// askTimeout is how long the server of what is mounted there may take to answer: it may be anything.
const askTimeout = 2 * time.Second

// TypeOf says what statfs tells a process of the view that it finds, and how that is known. With anything else than a
// view there the type is right.
func TypeOf(ctx context.Context, socket string, pid int, sight Sight) (Right, Check) {
	name := "type for process " + strconv.Itoa(pid)
	switch sight {
	case None, V1, V2:
		return RightYes, Check{name, OK, "no view is there, and statfs says what is", ""}
	}
	filter, _ := host.StatusMask(pid, "Seccomp:")
	number, err := askType(pid, sight)
	right, check := rightOf(name, number, err, filter != 0)
	if err == nil && right == RightUnknown && listens(ctx, socket, pid) {
		return RightYes, Check{name, OK, "statfs says FUSE here; the daemon has a seccomp listener of its container, and answers it", ""}
	}
	return right, check
}

// listens says whether the daemon has a listener of the guest whose view a process finds. A view is told by its device.
func listens(ctx context.Context, socket string, pid int) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	client := api.NewClient(socket)
	defer client.Close()
	guests, err := client.Guests(ctx)
	if err != nil {
		return false
	}
	views, err := host.MountTable("/proc/"+strconv.Itoa(pid)+"/mountinfo", func(m *mountinfo.Info) (skip, stop bool) {
		return !strings.HasPrefix(m.Mountpoint, place) || !strings.HasPrefix(m.FSType, "fuse.cgroup"), false
	})
	if err != nil {
		return false
	}
	return slices.ContainsFunc(guests, func(g api.Guest) bool {
		if g.Calls.Listeners == 0 {
			return false
		}
		var st unix.Statx_t
		if unix.Statx(unix.AT_FDCWD, g.Spec.Place().String(), unix.AT_STATX_DONT_SYNC, 0, &st) != nil {
			return false
		}
		return slices.ContainsFunc(views, func(m *mountinfo.Info) bool {
			return uint32(m.Major) == st.Dev_major && uint32(m.Minor) == st.Dev_minor
		})
	})
}

// rightOf judges what statfs said here, where BPF answers for every process and a filter of that one's does not.
func rightOf(name string, number int64, err error, filtered bool) (Right, Check) {
	const (
		do     = "have the type answered by BPF, or by the runtime's seccomp notification (docs/clients.md)"
		maybe  = "statfs says FUSE here; the process has a seccomp filter, and if that notifies of statfs, is told the right type"
		surely = "statfs says FUSE: no BPF answers, and it has no seccomp filter that could"
	)
	switch {
	case err != nil:
		return RightUnknown, Check{name, Less, fmt.Sprintf("statfs of its view: %v", err), "vcgroupfs guest ls"}
	case number != unix.FUSE_SUPER_MAGIC:
		return RightYes, Check{name, OK, fmt.Sprintf("statfs says %#x, by BPF: as the kernel's own mount would", number), ""}
	case filtered:
		return RightUnknown, Check{name, Less, maybe, do}
	}
	return RightNo, Check{name, Less, surely, do}
}

// askType asks statfs of a view in the root of a process.
func askType(pid int, sight Sight) (int64, error) {
	type answer struct {
		number int64
		err    error
	}
	done := make(chan answer, 1)
	go func() {
		number, err := statfsIn(pid, sight)
		done <- answer{number, err}
	}()
	select {
	case a := <-done:
		return a.number, a.err
	case <-time.After(askTimeout):
		return 0, fmt.Errorf("no answer within %v", askTimeout)
	}
}

func statfsIn(pid int, sight Sight) (int64, error) {
	proc := "/proc/" + strconv.Itoa(pid)
	at := place
	if sight == Tmpfs || sight == StackedTmpfs { // the top is a real one
		mounts, err := host.MountTable(proc+"/mountinfo", mountinfo.PrefixFilter(place))
		if err != nil {
			return 0, err
		}
		i := slices.IndexFunc(mounts, func(m *mountinfo.Info) bool {
			return m.FSType == "fuse.cgroup" && m.Mountpoint != place
		})
		if i < 0 {
			return 0, unix.ENOENT
		}
		at = mounts[i].Mountpoint
	}
	root, err := unix.Open(proc+"/root", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(root)
	// From a descriptor of its root a path goes through the mounts of that process, without entering its namespace.
	fd, err := unix.Openat2(root, at, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	var st unix.Statfs_t
	err = unix.Fstatfs(fd, &st)
	return int64(st.Type), err
}
