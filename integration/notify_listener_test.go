package integration

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// The types that statfs says, in hexadecimal digits (include/uapi/linux/magic.h).
const (
	fuseType    = "65735546"
	cgroupType  = "27e0eb"
	cgroup2Type = "63677270"
	tmpfsType   = "1021994"
	procType    = "9fa0"
)

// listeners is the socket for listeners of a daemon.
func (d *daemon) listeners() string { return filepath.Join(filepath.Dir(d.socket), "notify") }

// startUnaided starts a daemon whose views' type nothing but a listener makes right.
func startUnaided(t testing.TB, env ...string) *daemon {
	t.Helper()
	return startDaemonWith(t, program(t), []string{"--no-bpf"}, env...)
}

// listened is a seccomp configuration for a bundle, as docs/runtimes.md has it for runc and crun by themselves.
func listened(d *daemon) map[string]any {
	return map[string]any{
		"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": d.listeners(),
		"architectures": []string{"SCMP_ARCH_X86_64", "SCMP_ARCH_X86"},
		"syscalls": []any{
			map[string]any{
				"names": []string{"statfs", "fstatfs", "statfs64", "fstatfs64", "mount", "fsopen"}, "action": "SCMP_ACT_NOTIFY",
			},
			map[string]any{"names": []string{"clone3"}, "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
		},
	}
}

// viewTypes are the types of a view's top and of a hierarchy in it.
func viewTypes(tree *host.Hierarchy) map[string]string {
	if tree.Version == hierarchy.V2 {
		return map[string]string{guestView: cgroup2Type}
	}
	return map[string]string{guestView: tmpfsType, topOf(guestView, tree): cgroupType}
}

// wantTypes asks a container for types, in two ways.
func (x *helper) wantTypes(t testing.TB, want map[string]string) {
	t.Helper()
	for path, kind := range want {
		if got := x.ask(t, "type", path); got != kind {
			t.Errorf("statfs of %s: %s, want %s", path, got, kind)
		}
		if got := x.ask(t, "ftype", path); got != kind {
			t.Errorf("fstatfs of %s: %s, want %s", path, got, kind)
		}
	}
}

// TestListener: with a listener at the daemon's socket a container finds the types that the kernel's own mounts have;
// without, those of FUSE.
func TestListener(t *testing.T) {
	for _, runtime := range ociRuntimes(t) {
		for name, namespaces := range map[string][]string{
			"default": {"cgroup"}, "userns": {"user", "cgroup"}, "hostpid": {"cgroup", "-pid"},
		} {
			for _, layout := range []string{"own", "v2"} {
				t.Run(runtime+"-"+name+"-"+layout, func(t *testing.T) {
					testListener(t, needRuntime(t, runtime), namespaces, layout)
				})
			}
		}
	}
}

// treeOfLayout is a hierarchy that a view shows which mirrors the host, or one of v2 alone, and how a hook is told so.
func treeOfLayout(t testing.TB, h *host.Host, layout string) (tree *host.Hierarchy, args []string) {
	t.Helper()
	if tree = need(t, h, "pids"); layout == "v2" && tree.Version == hierarchy.V1 {
		return need(t, h, hierarchy.Unified), []string{"--controllers", hierarchy.Unified}
	}
	return tree, nil
}

func testListener(t *testing.T, runtime string, namespaces []string, layout string) {
	h := openHost(t)
	needPlainCrun(t, h, runtime)
	tree, args := treeOfLayout(t, h, layout)
	d := startUnaided(t)
	for _, with := range []bool{true, false} {
		b := newBundle(t, d, runtime, "listened", "commands", args...)
		b.with(namespaces...)
		if with {
			b.linux()["seccomp"] = listened(d)
		}
		b.write(t)
		cmd := b.command(runtime)
		cmd.Stderr = os.Stderr
		x := startProcess(t, cmd)
		x.ask(t, "type", guestView) // it runs
		if right := d.doctorOf(t, initOf(t, runtime, b)).TypeRight; (right == "yes") != with {
			t.Errorf("with a listener: %v, and doctor says that the type is right: %s", with, right)
		}
		want := viewTypes(tree)
		if !with {
			for path := range want {
				want[path] = fuseType
			}
		}
		want["/proc"] = procType
		x.wantTypes(t, want)
		if got := x.ask(t, "type", guestView+"/nothing"); got != "ENOENT" {
			t.Errorf("statfs of nothing: %s", got)
		}
		if got := x.ask(t, "clone3"); with && got != "ENOSYS" {
			t.Errorf("clone3: %s", got)
		}
		x.in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the container ended with %v", err)
		}
		nothingLeft(t, d, h, b.cgroup)
	}
	d.stop(t)
	if left, _ := filepath.Glob(d.listeners() + "*"); len(left) > 0 {
		t.Errorf("sockets are left: %v", slices.Clone(left))
	}
}
