package runtimes

import "github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"

var lxc = &Hook{
	Name: "lxc", Usage: "for LXC and Incus: lxc.hook.start-host and lxc.hook.post-stop",
	Description: "Takes the container from LXC's environment. As start-host it adds a guest whose boundary is the " +
		"container's cgroup and attaches\n" +
		"the view in the container; as post-stop it removes the guest.\n\n" +
		"   lxc.hook.version = 1\n" +
		"   lxc.hook.start-host = /usr/bin/vcgroupfs hook lxc --controllers memory,pids\n" +
		"   lxc.hook.post-stop = /usr/bin/vcgroupfs hook lxc",
	Read: readLXC,
}

// readLXC reads LXC's description of a container (lxc.container.conf(5), "CONTAINER HOOKS ENVIRONMENT VARIABLES").
func readLXC(in Input) (box Container, err error) {
	box = Container{ID: in.Getenv("LXC_NAME"), Of: in.Getenv("LXC_CONFIG_FILE")}
	if box.ID == "" {
		return box, fault.New(fault.Invalid,
			"LXC_NAME is not set: this is run by LXC, as lxc.hook.start-host and lxc.hook.post-stop with lxc.hook.version = 1")
	}
	switch kind := in.Getenv("LXC_HOOK_TYPE"); kind {
	case "post-stop":
		return box, nil
	case "start-host":
		box.Pid, err = in.pid("LXC_PID")
		return box, err
	default:
		return box, fault.New(fault.Invalid,
			"LXC_HOOK_TYPE is %q: this hook is for start-host and post-stop, with lxc.hook.version = 1", kind)
	}
}
