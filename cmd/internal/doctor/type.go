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

// Right reports whether statfs of its view returns the kernel's own type to a process.
type Right string

const (
	RightYes     Right = "yes"
	RightNo      Right = "no"
	RightUnknown Right = "unknown" // its seccomp filter may notify of statfs, which is not visible from outside
)

// askTimeout is the time to answer for the server of the mounted file system, which may be any.
const askTimeout = 2 * time.Second

// TypeOf finds the type that statfs of its view returns to a process, and the source of that type. Without a view there
// the type is right.
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
		return RightYes, Check{name, OK,
			"statfs says FUSE here; the daemon has a seccomp listener of its container, and answers it", ""}
	}
	return right, check
}

// listens reports that the daemon has a listener of the guest whose view a process finds. The device identifies the
// view.
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

// rightOf judges the answer of statfs here, which BPF changes for every process and that process's filter does not.
func rightOf(name string, number int64, err error, filtered bool) (Right, Check) {
	const (
		do    = "have the type answered by BPF, or by the runtime's seccomp notification (docs/clients.md)"
		maybe = "statfs says FUSE here; the process has a seccomp filter, and if that notifies of statfs, is told the " +
			"right type"
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

// askType calls statfs of a view in the root of a process.
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
	if sight == Tmpfs || sight == StackedTmpfs {
		// The top is a real tmpfs.
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
