package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// TestPrograms: the usual programs read what is there, whether the kernel reads it for them or the server answers: some ask for the size
// first, some have the kernel copy, some look for holes.
func TestPrograms(t *testing.T) {
	h := kit.OpenHost(t)
	hier := kit.NeedHierarchy(t, h, "pids")
	path := kit.NewBoundary(t, "programs", hier)
	v := kit.MountView(t, "--boundary", path, "--controllers", "pids")
	files := map[string]string{"pids.max": "max\n", "notify_on_release": "0\n", "cgroup.procs": ""}
	if hier.Version == hierarchy.V2 {
		files = map[string]string{"pids.max": "max\n", "cgroup.controllers": "pids\n", "cgroup.procs": ""}
	}
	dir := t.TempDir()
	ran := 0
	for file, want := range files {
		path, copied := filepath.Join(v.Top(hier), file), filepath.Join(dir, file)
		for _, line := range []string{
			"cat FILE", "cp FILE COPY", "head -c 100 FILE", "tail -n 5 FILE", "dd if=FILE of=COPY", "cp --sparse=always FILE COPY", "wc -c FILE", "grep ^ FILE",
			"busybox cat FILE", "busybox cp FILE COPY", "busybox head -c 100 FILE", "busybox tail -n 5 FILE", "busybox dd if=FILE of=COPY", "busybox wc -c FILE",
			"busybox grep ^ FILE",
		} {
			words := strings.Fields(strings.NewReplacer("FILE", path, "COPY", copied).Replace(line))
			program, err := exec.LookPath(words[0])
			if err != nil {
				continue
			}
			out, err := exec.Command(program, words[1:]...).Output()
			got := string(out)
			if _, ok := err.(*exec.ExitError); ok && !strings.Contains(line, "grep") {
				if strings.Contains(line, "--sparse") {
					continue // busybox has no such option
				}
				t.Errorf("%s: %v", line, err)
			}
			if strings.Contains(line, "COPY") {
				got = kit.ReadFile(copied)
				os.Remove(copied)
			}
			if count, _, _ := strings.Cut(got, " "); strings.Contains(line, "wc") && count == strconv.Itoa(len(want)) {
				got = want
			}
			ran++
			if got != want {
				t.Errorf("%s of %s: %q, want %q", line, file, got, want)
			}
		}
	}
	if ran < 20 {
		t.Errorf("only %d commands", ran)
	}
}
