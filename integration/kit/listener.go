package kit

import (
	"os"
	"os/exec"
	"testing"

	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// Listened is a container whose calls a daemon listens to.
type Listened struct {
	*Helper
	d         *Daemon
	Host      *host.Host
	Hierarchy *host.Hierarchy
	Bundle    *Bundle
	Run       *exec.Cmd
}

// StartListened starts one with runc, whose program does what it is told.
func StartListened(t *testing.T, d *Daemon, id string, change func(b *Bundle)) *Listened {
	t.Helper()
	runtime := OCIRuntimes(t)[0]
	h := OpenHost(t)
	c := &Listened{d: d, Host: h, Hierarchy: NeedHierarchy(t, h, "pids")}
	c.Bundle = NewBundle(t, d, NeedRuntime(t, runtime), id, "commands")
	c.Bundle.WithNamespaces("cgroup")
	c.Bundle.Linux()["seccomp"] = ListenedProfile(d)
	if change != nil {
		change(c.Bundle)
	}
	c.Bundle.Write(t)
	c.Run = c.Bundle.Command(runtime)
	c.Run.Stderr = os.Stderr
	c.Helper = StartProcess(t, c.Run)
	return c
}

// ListenedProfile is a seccomp configuration for a bundle, as docs/runtimes.md has it for runc and crun by themselves.
func ListenedProfile(d *Daemon) map[string]any {
	return map[string]any{
		"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": d.ListenerSocket(),
		"architectures": []string{"SCMP_ARCH_X86_64", "SCMP_ARCH_X86"},
		"syscalls": []any{
			map[string]any{
				"names": []string{"statfs", "fstatfs", "statfs64", "fstatfs64", "mount", "fsopen"}, "action": "SCMP_ACT_NOTIFY",
			},
			map[string]any{"names": []string{"clone3"}, "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
		},
	}
}
