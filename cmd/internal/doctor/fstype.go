package doctor

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fstype"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

const typeName = "file-system type"

// fileSystemType says by what statfs of a view can say the type that the view stands for. Where no daemon answers for it, the programs
// are loaded and taken away again: only the kernel knows what it permits.
func fileSystemType(ctx context.Context, socket string) Check {
	const works = "by BPF: statfs of a view says cgroup2's type, or cgroup's"
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	client := api.NewClient(socket)
	defer client.Close()
	if info, err := client.Info(ctx); err == nil {
		if info.TypeByBPF {
			return Check{typeName, OK, works + "; the daemon answers, for run and mount too", ""}
		}
		if info.TypeRefused != "" {
			return typeRefused("the daemon's statfs of a view says FUSE: " + info.TypeRefused)
		}
	}
	p, err := fstype.Load()
	if err != nil {
		return typeRefused(err.Error())
	}
	p.Close()
	return Check{typeName, OK, works, ""}
}

func typeRefused(found string) Check {
	return Check{typeName, Less, found, "seccomp notification, which needs no BPF; else give programs that look for the type what the table below says"}
}

// TypeOf says which type a process finds at /sys/fs/cgroup. The error says that there is no such process.
func TypeOf(pid int) (Check, error) {
	name := fmt.Sprintf("%s for process %d", typeName, pid)
	got, err := typeAt(pid)
	switch {
	case os.IsNotExist(err):
		return Check{name, Less, "nothing at " + place, "give it a view"}, nil
	case err != nil:
		return Check{}, fmt.Errorf("cannot look at process %d: %w", pid, err)
	}
	for _, known := range []struct {
		magic int64
		found string
	}{
		{unix.CGROUP2_SUPER_MAGIC, "cgroup2's"}, {unix.CGROUP_SUPER_MAGIC, "cgroup's"}, {unix.TMPFS_MAGIC, "tmpfs's, as hosts with v1 have it"},
	} {
		if got == known.magic {
			return Check{name, OK, known.found, ""}, nil
		}
	}
	if got == unix.FUSE_SUPER_MAGIC {
		return Check{name, Less, "FUSE's: programs that look for the type take the view for none", "see " + typeName + " above"}, nil
	}
	return Check{name, Less, fmt.Sprintf("%#x, which is no cgroup file system's", got), "give it a view"}, nil
}

// typeAt asks statfs from the mount namespace and root of a process. A view whose server hangs is waited for a second at most.
func typeAt(pid int) (magic int64, err error) {
	if _, err := host.StartOf(pid); err != nil {
		return 0, fmt.Errorf("no such process")
	}
	type answer struct {
		magic int64
		err   error
	}
	answered := make(chan answer, 1)
	go func() {
		var st unix.Statfs_t
		path := "/proc/" + strconv.Itoa(pid) + "/root" + place
		err := unix.Statfs(path, &st)
		if err != nil {
			err = &os.PathError{Op: "statfs", Path: path, Err: err}
		}
		answered <- answer{st.Type, err}
	}()
	select {
	case a := <-answered:
		return a.magic, a.err
	case <-time.After(time.Second):
		return 0, fmt.Errorf("statfs of its %s is not answered: the view has no server, or a slow one", place)
	}
}
