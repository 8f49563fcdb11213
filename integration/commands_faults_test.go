package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// TestSameFaultSameCode: mount and guest add, which asks the daemon, end with the same exit code for the same fault.
func TestSameFaultSameCode(t *testing.T) {
	h := kit.OpenHost(t)
	path := kit.NewBoundary(t, "faults", kit.NeedHierarchy(t, h, "pids"))
	d := kit.StartDaemon(t)
	dir := kit.PublicDir(t)
	write := func(name, text string) string {
		file := filepath.Join(d.Dir, name)
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return file
	}
	file, bad := write("file", ""), write("bad.yaml", "version: 1\nnonsense: 1\n")
	for _, c := range []struct {
		name   string
		code   int
		target string
		args   []string
	}{
		{"no such boundary", 1, dir, []string{"--boundary", path + "/none", "--controllers", "pids"}},
		{"the root as a boundary", 2, dir, []string{"--boundary", "/", "--controllers", "pids"}},
		{"a boundary that is no absolute path", 2, dir, []string{"--boundary", "x", "--controllers", "pids"}},
		{"no such process", 1, dir, []string{"--pid", "4194303", "--controllers", "pids"}},
		{"no number of a process", 2, dir, []string{"--pid", "-3", "--controllers", "pids"}},
		{"neither boundary nor process", 2, dir, []string{"--controllers", "pids"}},
		{"no such target", 1, dir + "/none", []string{"--boundary", path, "--controllers", "pids"}},
		{"a target that is a file", 1, file, []string{"--boundary", path, "--controllers", "pids"}},
		{"no such controller", 2, dir, []string{"--boundary", path, "--controllers", "cpux"}},
		{"a policy that is wrong", 3, dir, []string{"--boundary", path, "--policy", bad}},
		{"a policy that is not there", 3, dir, []string{"--boundary", path, "--policy", dir + "/none"}},
		{"no such layout", 2, dir, []string{"--boundary", path, "--layout", "v9"}},
		{"no owner", 2, dir, []string{"--boundary", path, "--controllers", "pids", "--owner", "root"}},
		{"no such flag", 2, dir, []string{"--boundary", path, "--bogus"}},
	} {
		mount := exec.Command(kit.Program(t), append(append([]string{"mount"}, c.args...), c.target)...)
		out, _ := mount.CombinedOutput()
		add, said := d.Try(t, append([]string{"guest", "add", "web", "--target", c.target}, c.args...)...)
		if got := mount.ProcessState.ExitCode(); got != c.code || add != c.code {
			t.Errorf("%s: mount ends with %d (%s), guest add with %d (%s); want %d", c.name, got, out, add, said, c.code)
		}
	}
	d.Stop(t)
}
