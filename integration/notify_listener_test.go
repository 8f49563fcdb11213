package integration

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// TestListener: with a listener at the daemon's socket a container finds the types that the kernel's own mounts have;
// without, those of FUSE.
func TestListener(t *testing.T) {
	for _, runtime := range kit.OCIRuntimes(t) {
		for name, namespaces := range map[string][]string{
			"default": {"cgroup"}, "userns": {"user", "cgroup"}, "hostpid": {"cgroup", "-pid"},
		} {
			for _, layout := range []string{"own", "v2"} {
				t.Run(runtime+"-"+name+"-"+layout, func(t *testing.T) {
					testListener(t, kit.NeedRuntime(t, runtime), namespaces, layout)
				})
			}
		}
	}
}

func testListener(t *testing.T, runtime string, namespaces []string, layout string) {
	h := kit.OpenHost(t)
	kit.NeedPlainCrun(t, h, runtime)
	hier, args := kit.HierarchyOfLayout(t, h, layout)
	d := kit.StartUnaidedDaemon(t)
	for _, with := range []bool{true, false} {
		b := kit.NewBundle(t, d, runtime, "listened", "commands", args...)
		b.WithNamespaces(namespaces...)
		if with {
			b.Linux()["seccomp"] = kit.ListenedProfile(d)
		}
		b.Write(t)
		cmd := b.Command(runtime)
		cmd.Stderr = os.Stderr
		x := kit.StartProcess(t, cmd)
		x.Ask(t, "type", kit.GuestView) // it runs
		if right := d.DoctorOf(t, kit.InitOf(t, runtime, b)).TypeRight; (right == "yes") != with {
			t.Errorf("with a listener: %v, and doctor says that the type is right: %s", with, right)
		}
		want := kit.ViewTypes(hier)
		if !with {
			for path := range want {
				want[path] = kit.FUSEType
			}
		}
		want["/proc"] = kit.ProcType
		x.WantTypes(t, want)
		if got := x.Ask(t, "type", kit.GuestView+"/nothing"); got != "ENOENT" {
			t.Errorf("statfs of nothing: %s", got)
		}
		if got := x.Ask(t, "clone3"); with && got != "ENOSYS" {
			t.Errorf("clone3: %s", got)
		}
		x.End(t)
		kit.WantNothingLeft(t, d, h, b.Cgroup)
	}
	d.Stop(t)
	if left, _ := filepath.Glob(d.ListenerSocket() + "*"); len(left) > 0 {
		t.Errorf("sockets are left: %v", slices.Clone(left))
	}
}
