package doctor

import (
	"context"
	"time"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fstype"
)

const typeName = "file-system type"

// fileSystemType checks whether, and how, statfs of a view can return the type of the view's hierarchies. Without an
// answering daemon it loads the programs and unloads them again: only the kernel knows what it permits.
func fileSystemType(ctx context.Context, socket string) Check {
	works := "by BPF: statfs of a view says cgroup2's type, or cgroup's; " + cloneAnswer()
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	client := api.NewClient(socket)
	defer client.Close()
	if info, err := client.Info(ctx); err == nil {
		if info.TypeByBPF {
			return Check{typeName, OK, works + "; the daemon answers, for run and mount too", ""}
		}
		if info.TypeRefused != "" {
			c := typeRefused("the daemon's statfs of a view says FUSE: " + info.TypeRefused)
			if info.Notify != "" {
				c.Found += "; it answers containers whose seccomp profile asks it at " + info.Notify +
					" (docs/runtimes.md; guest show says which do)"
			}
			return c
		}
	}
	if err := fstype.Probe(); err != nil {
		return typeRefused(err.Error())
	}
	return Check{typeName, OK, works, ""}
}

// cloneAnswer describes whether BPF also makes programs that clone into a cgroup fall back, such as systemd 257 and
// newer.
func cloneAnswer() string {
	if fstype.SecurityModule() {
		return "clone3 into a cgroup is ENOSYS to guests"
	}
	return "bpf is not known to be among the security modules (lsm=), so clone3 into a cgroup needs a seccomp filter " +
		"that says ENOSYS"
}

func typeRefused(found string) Check {
	const do = "seccomp notification, which needs no BPF; else give programs that look for the type what the table " +
		"below says"
	return Check{typeName, Less, found, do}
}
