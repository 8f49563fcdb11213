package integration

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// controllersIn are the names that /proc/cgroups has.
func controllersIn(text string) (names []string) {
	for line := range strings.Lines(text) {
		if name, _, _ := strings.Cut(line, "\t"); !strings.HasPrefix(line, "#") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// procCgroupsMounts counts what is mounted over /proc/cgroups of an insider or a container.
func procCgroupsMounts(t *testing.T, x *kit.Helper) (n int) {
	t.Helper()
	for line := range strings.Lines(x.Ask(t, "read", "/proc/self/mountinfo")) {
		if strings.Contains(line, " /proc/cgroups ") {
			n++
		}
	}
	return n
}

// TestProcCgroups: a guest that runs gets a file over /proc/cgroups beside its view, and loses it with that.
func TestProcCgroups(t *testing.T) {
	d := kit.StartDaemon(t)
	x := kit.StartInsider(t, d, "proc-cgroups")
	before := x.Ask(t, "read", "/proc/cgroups")
	x.Add(t, "in", "--proc-cgroups")
	shown := func(n int) {
		t.Helper()
		if got := controllersIn(x.Ask(t, "read", "/proc/cgroups")); len(got) != 1 || got[0] != "pids" || procCgroupsMounts(t, x.Helper) != n {
			t.Errorf("/proc/cgroups has %v, with %d mounts", got, procCgroupsMounts(t, x.Helper))
		}
	}
	shown(1)
	if got := kit.ReadFile("/proc/cgroups"); controllersIn(got)[0] == "pids" {
		t.Errorf("the host has %q", got)
	}
	if got := x.Ask(t, "write", "/proc/cgroups", "x"); got != "EROFS" {
		t.Errorf("writing to it: %s", got)
	}
	d.WantTry(t, 0, "", "guest", "attach", "in")
	shown(1)
	x.Ask(t, "umount", "/proc/cgroups") // what the guest takes away, it is given again
	if got := x.Ask(t, "read", "/proc/cgroups"); len(controllersIn(got)) != len(controllersIn(before)) {
		t.Errorf("after it was taken away: %q", got)
	}
	d.Signal(t, unix.SIGKILL, 0) // by the next worker, too
	d.Ready(t)
	d.WantTry(t, 0, "", "guest", "attach", "in")
	shown(1)
	d.WantTry(t, 0, "", "guest", "rm", "in")
	if n := procCgroupsMounts(t, x.Helper); n != 0 || len(controllersIn(x.Ask(t, "read", "/proc/cgroups"))) != len(controllersIn(before)) {
		t.Errorf("%d mounts after the guest was removed", n)
	}
	// Of what fails nothing stays.
	d.WantTry(t, 1, "no such file", "guest", "add", "in", "--pid", strconv.Itoa(x.PID()), "--controllers", "pids", "--into", "/nowhere", "--proc-cgroups")
	d.WantTry(t, 1, "/proc/cgroups", "guest", "add", "in", "--pid", strconv.Itoa(x.PID()), "--controllers", "pids", "--into", "/sys", "--rootfs", "/usr", "--proc-cgroups")
	d.WantTry(t, 2, "--into", "guest", "add", "in", "--pid", strconv.Itoa(x.PID()), "--proc-cgroups")
	if n := procCgroupsMounts(t, x.Helper); n != 0 {
		t.Errorf("%d mounts after guests that were not added", n)
	}
	if left, _ := os.ReadDir(filepath.Join(filepath.Dir(d.Socket), "views")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	d.Stop(t)
}

// TestOCIProcCgroups: so does a container, whatever its namespaces are, and without it the container does not start.
func TestOCIProcCgroups(t *testing.T) {
	for _, name := range kit.OCIRuntimes(t) {
		for kind, namespaces := range map[string][]string{"default": nil, "userns": {"user", "cgroup"}, "userns-hostpid": {"user", "-pid"}} {
			t.Run(name+"-"+kind, func(t *testing.T) {
				runtime := kit.NeedRuntime(t, name)
				h := kit.OpenHost(t)
				kit.NeedHierarchy(t, h, "pids")
				kit.NeedPlainCrun(t, h, runtime)
				d := kit.StartDaemon(t)
				b := kit.NewBundle(t, d, runtime, "proc-cgroups", "commands", "--controllers", "pids", "--proc-cgroups")
				b.WithNamespaces(namespaces...)
				b.Write(t)
				cmd := b.Command(runtime)
				cmd.Stderr = os.Stderr
				x := kit.StartProcess(t, cmd)
				if got := controllersIn(x.Ask(t, "read", "/proc/cgroups")); len(got) != 1 || got[0] != "pids" {
					t.Errorf("/proc/cgroups has %v", got)
				}
				if got := x.Ask(t, "write", "/proc/cgroups", "x"); got != "EROFS" && got != "EACCES" {
					t.Errorf("writing to it: %s", got)
				}
				x.End(t)
				kit.WantNothingLeft(t, d, h, b.Cgroup)
				if kind != "default" {
					d.Stop(t)
					return
				}
				for _, m := range b.Config["mounts"].([]any) { // a container without procfs
					if m := m.(map[string]any); m["destination"] == "/proc" {
						m["type"], m["source"], m["options"] = "tmpfs", "tmpfs", []string{}
					}
				}
				b.Linux()["maskedPaths"], b.Linux()["readonlyPaths"] = []string{}, []string{}
				b.Write(t)
				if out, err := b.Command(runtime).CombinedOutput(); err == nil || !strings.Contains(string(out), "hook") {
					t.Errorf("without a /proc: %v: %s", err, out)
				}
				kit.WantNothingLeft(t, d, h, b.Cgroup)
				d.Stop(t)
			})
		}
	}
}
