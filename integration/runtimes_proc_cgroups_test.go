package integration

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
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
func procCgroupsMounts(t *testing.T, x *helper) (n int) {
	t.Helper()
	for line := range strings.Lines(x.ask(t, "read", "/proc/self/mountinfo")) {
		if strings.Contains(line, " /proc/cgroups ") {
			n++
		}
	}
	return n
}

// TestProcCgroups: a guest that runs gets a file over /proc/cgroups beside its view, and loses it with that.
func TestProcCgroups(t *testing.T) {
	d := startDaemon(t)
	x := startInsider(t, d, "proc-cgroups")
	before := x.ask(t, "read", "/proc/cgroups")
	x.add(t, "in", "--proc-cgroups")
	shown := func(n int) {
		t.Helper()
		if got := controllersIn(x.ask(t, "read", "/proc/cgroups")); len(got) != 1 || got[0] != "pids" || procCgroupsMounts(t, x.helper) != n {
			t.Errorf("/proc/cgroups has %v, with %d mounts", got, procCgroupsMounts(t, x.helper))
		}
	}
	shown(1)
	if got := readFile("/proc/cgroups"); controllersIn(got)[0] == "pids" {
		t.Errorf("the host has %q", got)
	}
	if got := x.ask(t, "write", "/proc/cgroups", "x"); got != "EROFS" {
		t.Errorf("writing to it: %s", got)
	}
	d.wantTry(t, 0, "", "guest", "attach", "in")
	shown(1)
	x.ask(t, "umount", "/proc/cgroups") // what the guest takes away, it is given again
	if got := x.ask(t, "read", "/proc/cgroups"); len(controllersIn(got)) != len(controllersIn(before)) {
		t.Errorf("after it was taken away: %q", got)
	}
	d.signal(t, unix.SIGKILL, 0) // by the next worker, too
	d.ready(t)
	d.wantTry(t, 0, "", "guest", "attach", "in")
	shown(1)
	d.wantTry(t, 0, "", "guest", "rm", "in")
	if n := procCgroupsMounts(t, x.helper); n != 0 || len(controllersIn(x.ask(t, "read", "/proc/cgroups"))) != len(controllersIn(before)) {
		t.Errorf("%d mounts after the guest was removed", n)
	}
	// Of what fails nothing stays.
	d.wantTry(t, 1, "no such file", "guest", "add", "in", "--pid", strconv.Itoa(x.pid()), "--controllers", "pids", "--into", "/nowhere", "--proc-cgroups")
	d.wantTry(t, 1, "/proc/cgroups", "guest", "add", "in", "--pid", strconv.Itoa(x.pid()), "--controllers", "pids", "--into", "/sys", "--rootfs", "/usr", "--proc-cgroups")
	d.wantTry(t, 2, "--into", "guest", "add", "in", "--pid", strconv.Itoa(x.pid()), "--proc-cgroups")
	if n := procCgroupsMounts(t, x.helper); n != 0 {
		t.Errorf("%d mounts after guests that were not added", n)
	}
	if left, _ := os.ReadDir(filepath.Join(filepath.Dir(d.socket), "views")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	d.stop(t)
}

// TestOCIProcCgroups: so does a container, whatever its namespaces are, and without it the container does not start.
func TestOCIProcCgroups(t *testing.T) {
	for _, name := range ociRuntimes(t) {
		for kind, namespaces := range map[string][]string{"default": nil, "userns": {"user", "cgroup"}, "userns-hostpid": {"user", "-pid"}} {
			t.Run(name+"-"+kind, func(t *testing.T) {
				runtime := needRuntime(t, name)
				h := openHost(t)
				need(t, h, "pids")
				needPlainCrun(t, h, runtime)
				d := startDaemon(t)
				b := newBundle(t, d, runtime, "proc-cgroups", "commands", "--controllers", "pids", "--proc-cgroups")
				b.with(namespaces...)
				b.write(t)
				cmd := b.command(runtime)
				cmd.Stderr = os.Stderr
				x := startProcess(t, cmd)
				if got := controllersIn(x.ask(t, "read", "/proc/cgroups")); len(got) != 1 || got[0] != "pids" {
					t.Errorf("/proc/cgroups has %v", got)
				}
				if got := x.ask(t, "write", "/proc/cgroups", "x"); got != "EROFS" && got != "EACCES" {
					t.Errorf("writing to it: %s", got)
				}
				x.in.Close()
				if err := cmd.Wait(); err != nil {
					t.Errorf("the container ended with %v", err)
				}
				nothingLeft(t, d, h, b.cgroup)
				if kind != "default" {
					d.stop(t)
					return
				}
				for _, m := range b.config["mounts"].([]any) { // a container without procfs
					if m := m.(map[string]any); m["destination"] == "/proc" {
						m["type"], m["source"], m["options"] = "tmpfs", "tmpfs", []string{}
					}
				}
				b.linux()["maskedPaths"], b.linux()["readonlyPaths"] = []string{}, []string{}
				b.write(t)
				if out, err := b.command(runtime).CombinedOutput(); err == nil || !strings.Contains(string(out), "hook") {
					t.Errorf("without a /proc: %v: %s", err, out)
				}
				nothingLeft(t, d, h, b.cgroup)
				d.stop(t)
			})
		}
	}
}
