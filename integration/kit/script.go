package kit

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// Script is what a container that only reads a file and writes a file is told to do with its view, and what it must
// find.
type Script struct {
	Lines, Want []string
}

// ViewScript reads and tries the limit of 64 tasks, makes a child and goes into it.
func ViewScript(dir string, v2 bool) Script {
	at := func(op, file string, value ...string) string {
		line := fmt.Sprintf("%s %q", op, filepath.Join(dir, file))
		for _, v := range value {
			line += fmt.Sprintf(" %q", v)
		}
		return line
	}
	s := Script{}
	add := func(line, want string) { s.Lines, s.Want = append(s.Lines, line), append(s.Want, want) }
	if v2 {
		add(at("write", "cgroup.subtree_control", "+pids"), "=ok")
	}
	add(at("read", "pids.max"), `="64\n"`)
	add(at("write", "pids.max", "max"), "=EPERM")
	add(at("mkdir", "child"), "=ok")
	add(at("write", "child/pids.max", "50"), "=ok")
	add(at("write", "child/cgroup.procs", "0"), "=ok")
	return s
}

// UnifiedScript does the like with what every cgroup of v2 has.
func UnifiedScript(dir string) Script {
	q := func(op, file, value string) string {
		return fmt.Sprintf("%s %q %q", op, filepath.Join(dir, file), value)
	}
	return Script{
		[]string{q("read", "cgroup.max.depth", ""), q("write", "cgroup.max.depth", "1"), q("mkdir", "child", ""),
			q("write", "child/cgroup.max.depth", "3"), q("write", "child/cgroup.procs", "0")},
		[]string{`="max\n"`, "=EPERM", "=ok", "=ok", "=ok"},
	}
}

// Put writes the script into a root file system.
func (s Script) Put(t testing.TB, rootfs string) {
	t.Helper()
	in := strings.Join(append(s.Lines, `read "/proc/self/mountinfo"`), "\n") + "\n"
	for file, text := range map[string]string{"in": in, "out": ""} {
		path := filepath.Join(rootfs, file)
		err := os.WriteFile(path, []byte(text), 0o666)
		if err == nil {
			err = os.Chmod(path, 0o666)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// Check compares what the container wrote, and looks for real cgroups among its mounts that it could write to. said is
// what its runtime said.
func (s Script) Check(t testing.TB, rootfs string, said []byte) {
	t.Helper()
	got := strings.Split(strings.TrimSpace(ReadFile(filepath.Join(rootfs, "out"))), "\n")
	if len(got) != len(s.Want)+1 || !slices.Equal(got[:len(s.Want)], s.Want) {
		t.Errorf("in the container: got %q, want %q; it was said: %s", got, s.Want, said)
		return
	}
	mounts, err := strconv.Unquote(strings.TrimPrefix(got[len(s.Want)], "="))
	if err != nil || !strings.Contains(mounts, " /sys/fs/cgroup ") {
		t.Errorf("what is mounted in the container: %s, %v", mounts, err)
	}
	for _, m := range KernelMounts(mounts) {
		if !m.ReadOnly() {
			t.Errorf("real cgroups that can be written to are mounted in the container: %+v", m)
		}
	}
}
