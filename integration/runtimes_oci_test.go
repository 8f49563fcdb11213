package integration

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// TestOCI: a container that a runtime starts with the hook has the view at /sys/fs/cgroup.
func TestOCI(t *testing.T) {
	for _, runtime := range []string{"runc", "crun"} {
		for name, namespaces := range map[string][]string{
			"default": nil, "cgroupns": {"cgroup"}, "userns": {"user", "cgroup"}, "hostpid": {"-pid"}, "userns-hostpid": {"user", "-pid"},
		} {
			t.Run(runtime+"-"+name, func(t *testing.T) { testOCI(t, kit.NeedRuntime(t, runtime), namespaces) })
		}
	}
}

func testOCI(t *testing.T, runtime string, namespaces []string) {
	h := kit.OpenHost(t)
	hier := kit.NeedHierarchy(t, h, "pids")
	kit.NeedPlainCrun(t, h, runtime)
	d := kit.StartDaemon(t)
	b := kit.NewBundle(t, d, runtime, "oci", "commands")
	b.WithNamespaces(namespaces...)
	b.Write(t)
	cmd := b.Command(runtime)
	cmd.Stderr = os.Stderr
	x := kit.StartProcess(t, cmd)
	top := kit.TopOf(kit.GuestView, hier)
	x.UseView(t, hier, "64", b.Cgroup)
	if got := strings.Fields(x.Ask(t, "read", top+"/child/cgroup.procs")); len(got) != 1 || !slices.Contains(namespaces, "-pid") && got[0] != "1" {
		t.Errorf("who is in the child: %q", got)
	}
	for _, m := range kit.KernelMounts(x.Ask(t, "read", "/proc/self/mountinfo")) {
		if got := x.Ask(t, "read", m.At+"/cgroup.procs"); !m.ReadOnly() || strings.HasPrefix(got, "E") {
			t.Errorf("of what the view does not show, or writable, %+v is left: %s", m, got)
		}
	}
	around := "no seccomp filter keeps it from a user namespace"
	if slices.Contains(namespaces, "user") {
		around = "the real cgroups are out of its reach"
	}
	d.WantTry(t, 0, around, "doctor", "--pid", strconv.Itoa(kit.InitOf(t, runtime, b)))
	d.Signal(t, unix.SIGKILL, 0) // the container does not notice
	if got := x.Ask(t, "read", top+"/child/pids.max"); got != "50\n" {
		t.Errorf("after the worker was killed: %q", got)
	}
	x.End(t)
	kit.WantNothingLeft(t, d, h, b.Cgroup)
	d.Stop(t)
}

// TestOCIClosed: without its view no container starts, and nothing is left of it.
func TestOCIClosed(t *testing.T) {
	runtime := kit.NeedRuntime(t, "runc")
	h := kit.OpenHost(t)
	d := kit.StartDaemon(t)
	for name, c := range map[string]struct {
		args  []string
		spoil func(b *kit.Bundle)
		says  string
	}{
		"annotation": {[]string{"--controllers", "pids"}, func(b *kit.Bundle) {
			b.Config["annotations"] = map[string]string{"dev.vcgroupfs.controllers": "memory"}
		}, "not allowed"},
		"place":         {[]string{"--into", "/nowhere"}, nil, "no such file"},
		"controller":    {[]string{"--controllers", "nonsense"}, nil, "nonsense"},
		"daemon":        {[]string{"--socket", d.Dir + "/nobody.sock"}, nil, "daemon"},
		"policy":        {[]string{"--policy", "/nowhere.yaml"}, nil, "nowhere.yaml"},
		"host's cgroup": {nil, func(b *kit.Bundle) { b.Linux()["cgroupsPath"] = "/" }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			b := kit.NewBundle(t, d, runtime, "closed", "threads ", c.args...)
			if c.spoil != nil {
				c.spoil(b)
			}
			b.Write(t)
			out, err := b.Command(runtime).CombinedOutput()
			if err == nil || !strings.Contains(string(out), c.says) {
				t.Errorf("%v: %s; want a failure that says %q", err, out, c.says)
			}
			kit.WantNothingLeft(t, d, h, b.Cgroup)
		})
	}
	d.Stop(t)
}

// TestOCIMany: containers that come and go side by side leave nothing behind.
func TestOCIMany(t *testing.T) {
	runtime := kit.NeedRuntime(t, "runc")
	h := kit.OpenHost(t)
	kit.NeedHierarchy(t, h, "pids")
	d := kit.StartDaemon(t)
	many := kit.Scaled(t, 50, 10)
	bundles := make([]*kit.Bundle, many)
	for i := range bundles {
		bundles[i] = kit.NewBundle(t, d, runtime, fmt.Sprint("many", i), "threads ")
		bundles[i].Write(t)
	}
	run := func() {
		var all sync.WaitGroup
		for _, b := range bundles {
			all.Go(func() {
				if out, err := b.Command(runtime).CombinedOutput(); err != nil {
					t.Errorf("%s: %v: %s", b.ID, err, out)
				}
			})
		}
		all.Wait()
	}
	run()
	before := d.Usage()
	run()
	after := d.Usage()
	if after.FDs > before.FDs+max(4, many/4) || after.Threads > before.Threads+many/2 { // one each would be a leak; a burst leaves some for a while
		t.Errorf("the daemon had %d descriptors and %d threads, and has %d and %d", before.FDs, before.Threads, after.FDs, after.Threads)
	}
	for _, b := range bundles {
		kit.WantNothingLeft(t, d, h, b.Cgroup)
	}
	d.Stop(t)
}
