package integration

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// notifyForms are the forms of "run".
var notifyForms = [][]string{nil, {"--userns"}, {"--privileged"}, {"--userns", "--privileged"}}

// notifyLayout is a guest's layout, and the types that its nodes are to have.
type notifyLayout struct {
	name string
	args []string
	want map[string]uint32
}

// notifyLayouts are those that the host can have a guest in.
func notifyLayouts(h *host.Host) (all []notifyLayout) {
	const v1, v2 = unix.CGROUP_SUPER_MAGIC, unix.CGROUP2_SUPER_MAGIC
	unified := map[string]uint32{"": v2, "cgroup.procs": v2, "a": v2, "a/cgroup.procs": v2, "cgroup.events": v2, "a/../a": v2}
	if !kit.OnV1(h, "pids") {
		return []notifyLayout{{"v2", []string{"--controllers", "pids,memory"}, unified}}
	}
	dirs := map[string]uint32{
		"": unix.TMPFS_MAGIC, "pids": v1, "pids/a": v1, "pids/a/tasks": v1, "pids/pids.max": v1, "memory/memory.limit_in_bytes": v1, "memory/../pids": v1,
	}
	all = append(all, notifyLayout{"v1", []string{"--controllers", "pids,memory"}, dirs})
	if h.Hierarchy(hierarchy.Unified) == nil {
		return all
	}
	hybrid := map[string]uint32{"unified": v2, "unified/a": v2, "unified/cgroup.procs": v2, "unified/a/cgroup.events": v2}
	for path, want := range dirs {
		hybrid[path] = want
	}
	return append(all, notifyLayout{"hybrid", []string{"--controllers", "pids,memory,unified"}, hybrid},
		notifyLayout{"v2", []string{"--controllers", "unified", "--layout", "v2"}, unified})
}

// TestNotifyType: each kind of node of a view has the type that the kernel's own mount has there, by each call that tells it, in each form
// of "run" and in each layout.
func TestNotifyType(t *testing.T) {
	h := kit.OpenHost(t)
	kit.NeedHierarchy(t, h, "pids")
	binary := kit.PublicProgram(t)
	caller := filepath.Join(filepath.Dir(binary), "caller32")
	kit.CopyProgram(t, filepath.Join(filepath.Dir(kit.AbsProgram(t)), "caller32"), caller)
	for _, layout := range notifyLayouts(h) {
		for _, form := range notifyForms {
			t.Run(layout.name+"/"+kit.FormName(form), func(t *testing.T) {
				testNotifyType(t, layout, append(form, layout.args...), binary)
				if form != nil { // which knows no calls of 32 bits
					testNotifyType32(t, layout, append(form, layout.args...), caller)
				}
			})
		}
	}
}

func testNotifyType(t *testing.T, layout notifyLayout, args []string, binary string) {
	paths := []string{""}
	for path := range layout.want { // a directory before what is in it
		if filepath.Base(path) == "a" {
			paths = append(paths, path)
		}
	}
	for path := range layout.want {
		if path != "" && filepath.Base(path) != "a" {
			paths = append(paths, path)
		}
	}
	paths = append(paths, "../../..", "../..", "../../kernel", "../../../proc")
	list, _ := json.Marshal(paths)
	lines := kit.RunRole(t, binary, "notify-types "+string(list), args...)
	for i, path := range paths {
		want, ours := layout.want[path]
		if !ours { // as outside
			var st unix.Statfs_t
			if err := unix.Statfs(filepath.Join(kit.GuestView, path), &st); err != nil {
				t.Fatal(err)
			}
			want = uint32(st.Type)
		}
		if i >= len(lines) || strings.TrimSpace(lines[i]) != strings.TrimSpace(fmt.Sprintf("%s %#x %#x", path, want, want)) {
			t.Errorf("%q: want %#x, got %q", path, want, lines[min(i, len(lines)-1)])
		}
	}
}

func testNotifyType32(t *testing.T, layout notifyLayout, args []string, caller string) {
	kit.Need32(t, caller)
	var paths, want []string
	for path, kind := range layout.want {
		if strings.Contains(path, "a") && !strings.HasPrefix(path, "memory") { // those that are made, and are no more
			continue
		}
		paths = append(paths, filepath.Join(kit.GuestView, path))
		one := fmt.Sprintf("%#x/4096/255", kind)
		want = append(want, strings.Join([]string{filepath.Join(kit.GuestView, path), one, one, one, one}, " "))
	}
	out, err := exec.Command(kit.Program(t), append(append(append([]string{"run", "--no-bpf"}, args...), "--", caller), paths...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if got := strings.TrimSpace(string(out)); got != strings.Join(want, "\n") {
		t.Errorf("32 bits:\n%s\nwant:\n%s", got, strings.Join(want, "\n"))
	}
}

// TestNotifyClone3: with a view's directory, or with none, it is not there, so that programs fall back.
func TestNotifyClone3(t *testing.T) {
	binary := kit.PublicProgram(t)
	for _, form := range notifyForms {
		lines := kit.RunRole(t, binary, "notify-clone3", append(form, "--controllers", "pids")...)
		if lines[0] != "ENOSYS" {
			t.Errorf("%v: clone3: %s", form, lines[0])
		}
	}
}

// TestNotifyOff: switched off nothing is answered, and clone3 is still not there.
func TestNotifyOff(t *testing.T) {
	kit.NeedHierarchy(t, kit.OpenHost(t), "pids")
	binary := kit.PublicProgram(t)
	for _, form := range notifyForms {
		form = append(form, "--no-notify", "--controllers", "pids")
		if got := kit.RunRole(t, binary, "notify-types [\"\"]", form...); got[0] != "0x65735546 0x65735546" && got[0] != " 0x65735546 0x65735546" {
			t.Errorf("%v: %q", form, got)
		}
		if got := kit.RunRole(t, binary, "notify-clone3", form...); got[0] != "ENOSYS" {
			t.Errorf("%v: clone3: %s", form, got[0])
		}
	}
}

// TestNotifyForeign: a file system of the guest's own keeps its type, whatever it calls itself.
func TestNotifyForeign(t *testing.T) {
	kit.NeedHierarchy(t, kit.OpenHost(t), "pids")
	got := kit.RunGuest(t, []string{"--privileged", "--controllers", "pids"}, `
mkdir -p /tmp/vcgroupfs-test-foreign && mount -t tmpfs -o size=64k vcgroupfs /tmp/vcgroupfs-test-foreign && stat -f -c %t /tmp/vcgroupfs-test-foreign
umount /tmp/vcgroupfs-test-foreign; rmdir /tmp/vcgroupfs-test-foreign`)
	if got.Stdout != "1021994\n" || got.Stderr != "" {
		t.Errorf("%q %q", got.Stdout, got.Stderr)
	}
}

// TestNotifyBPF: where BPF has statfs answered, the filter does not ask for it, and nothing is started to answer.
func TestNotifyBPF(t *testing.T) {
	kit.NeedHierarchy(t, kit.OpenHost(t), "pids")
	g := kit.StartProcess(t, exec.Command(kit.Program(t), "run", "--controllers", "pids", "--", "sh", "-c",
		"stat -f -c %t /sys/fs/cgroup; read x"))
	kind := g.Line(t)
	supervisor := kit.SupervisorOf(g.Cmd.Process.Pid)
	g.In.Close()
	g.Cmd.Wait()
	if kind == "65735546" {
		t.Errorf("the view's type is FUSE's")
	}
	if supervisor != 0 && !refusedBPF(t) {
		t.Errorf("process %d answers, beside BPF", supervisor)
	}
}

// refusedBPF says whether "run" reports that this host has no BPF programs for statfs.
func refusedBPF(t *testing.T) bool {
	got := kit.RunCommand(t, "--log-level", "info", "run", "--controllers", "pids", "--", "true")
	return strings.Contains(got.Stderr, "no BPF program")
}
