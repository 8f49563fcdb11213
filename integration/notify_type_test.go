package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// notifyForms are the forms of "run".
var notifyForms = [][]string{nil, {"--userns"}, {"--privileged"}, {"--userns", "--privileged"}}

func formName(form []string) string { return "as" + strings.Join(form, "") }

// runRole runs, where only notification answers, the test binary, of which there is a copy that every guest can execute, in a role in a guest, and answers with the lines of
// its output.
func runRole(t *testing.T, binary, role string, args ...string) []string {
	t.Helper()
	out, err := roleCommand(t, binary, role, args...).Output()
	if err != nil {
		t.Fatalf("%s in run %q: %v: %s", role, args, err, out)
	}
	return strings.Split(strings.TrimSpace(string(out)), "\n")
}

func roleCommand(t *testing.T, binary, role string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(program(t), append(append([]string{"run", "--no-bpf"}, args...), "--", binary)...)
	cmd.Env = append(os.Environ(), roleVariable+"="+role)
	cmd.Stderr = os.Stderr
	return cmd
}

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
	if !onV1(h, "pids") {
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
	h := openHost(t)
	need(t, h, "pids")
	binary := publicProgram(t)
	caller := filepath.Join(filepath.Dir(binary), "caller32")
	copyProgram(t, filepath.Join(filepath.Dir(absProgram(t)), "caller32"), caller)
	for _, layout := range notifyLayouts(h) {
		for _, form := range notifyForms {
			t.Run(layout.name+"/"+formName(form), func(t *testing.T) {
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
	lines := runRole(t, binary, "notify-types "+string(list), args...)
	for i, path := range paths {
		want, ours := layout.want[path]
		if !ours { // as outside
			var st unix.Statfs_t
			if err := unix.Statfs(filepath.Join(guestView, path), &st); err != nil {
				t.Fatal(err)
			}
			want = uint32(st.Type)
		}
		if i >= len(lines) || strings.TrimSpace(lines[i]) != strings.TrimSpace(fmt.Sprintf("%s %#x %#x", path, want, want)) {
			t.Errorf("%q: want %#x, got %q", path, want, lines[min(i, len(lines)-1)])
		}
	}
}

// need32 skips a test where the kernel runs no 32-bit programs.
func need32(t *testing.T, program string) {
	t.Helper()
	if err := exec.Command(program).Run(); errors.Is(err, unix.ENOEXEC) {
		t.Skip("machine: its kernel runs no 32-bit programs (CONFIG_IA32_EMULATION)")
	}
}

func testNotifyType32(t *testing.T, layout notifyLayout, args []string, caller string) {
	need32(t, caller)
	var paths, want []string
	for path, kind := range layout.want {
		if strings.Contains(path, "a") && !strings.HasPrefix(path, "memory") { // those that are made, and are no more
			continue
		}
		paths = append(paths, filepath.Join(guestView, path))
		one := fmt.Sprintf("%#x/4096/255", kind)
		want = append(want, strings.Join([]string{filepath.Join(guestView, path), one, one, one, one}, " "))
	}
	out, err := exec.Command(program(t), append(append(append([]string{"run", "--no-bpf"}, args...), "--", caller), paths...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if got := strings.TrimSpace(string(out)); got != strings.Join(want, "\n") {
		t.Errorf("32 bits:\n%s\nwant:\n%s", got, strings.Join(want, "\n"))
	}
}

// TestNotifyClone3: with a view's directory, or with none, it is not there, so that programs fall back.
func TestNotifyClone3(t *testing.T) {
	binary := publicProgram(t)
	for _, form := range notifyForms {
		lines := runRole(t, binary, "notify-clone3", append(form, "--controllers", "pids")...)
		if lines[0] != "ENOSYS" {
			t.Errorf("%v: clone3: %s", form, lines[0])
		}
	}
}

// TestNotifyOff: switched off nothing is answered, and clone3 is still not there.
func TestNotifyOff(t *testing.T) {
	need(t, openHost(t), "pids")
	binary := publicProgram(t)
	for _, form := range notifyForms {
		form = append(form, "--no-notify", "--controllers", "pids")
		if got := runRole(t, binary, "notify-types [\"\"]", form...); got[0] != "0x65735546 0x65735546" && got[0] != " 0x65735546 0x65735546" {
			t.Errorf("%v: %q", form, got)
		}
		if got := runRole(t, binary, "notify-clone3", form...); got[0] != "ENOSYS" {
			t.Errorf("%v: clone3: %s", form, got[0])
		}
	}
}

// TestNotifyForeign: a file system of the guest's own keeps its type, whatever it calls itself.
func TestNotifyForeign(t *testing.T) {
	need(t, openHost(t), "pids")
	got := runGuest(t, []string{"--privileged", "--controllers", "pids"}, `
mkdir -p /tmp/vcgroupfs-test-foreign && mount -t tmpfs -o size=64k vcgroupfs /tmp/vcgroupfs-test-foreign && stat -f -c %t /tmp/vcgroupfs-test-foreign
umount /tmp/vcgroupfs-test-foreign; rmdir /tmp/vcgroupfs-test-foreign`)
	if got.out != "1021994\n" || got.err != "" {
		t.Errorf("%q %q", got.out, got.err)
	}
}

// TestNotifyBPF: where BPF has statfs answered, the filter does not ask for it, and nothing is started to answer.
func TestNotifyBPF(t *testing.T) {
	need(t, openHost(t), "pids")
	g := startProcess(t, exec.Command(program(t), "run", "--controllers", "pids", "--", "sh", "-c",
		"stat -f -c %t /sys/fs/cgroup; read x"))
	kind := g.line(t)
	supervisor := supervisorOf(g.cmd.Process.Pid)
	g.in.Close()
	g.cmd.Wait()
	if kind == "65735546" {
		t.Errorf("the view's type is FUSE's")
	}
	if supervisor != 0 && !refusedBPF(t) {
		t.Errorf("process %d answers, beside BPF", supervisor)
	}
}

// refusedBPF says whether "run" reports that this host has no BPF programs for statfs.
func refusedBPF(t *testing.T) bool {
	got := runCommand(t, "--log-level", "info", "run", "--controllers", "pids", "--", "true")
	return strings.Contains(got.err, "no BPF program")
}
