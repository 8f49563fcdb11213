package integration

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// TestFewDescriptors: where the daemon may have few descriptors, one guest cannot take all of them: another still opens files, the daemon
// takes orders, and its worker is replaced. What is low is said at the start.
func TestFewDescriptors(t *testing.T) {
	setpriv, err := exec.LookPath("setpriv")
	if err != nil || exec.Command(setpriv, "--bounding-set", "-sys_resource", "true").Run() != nil {
		t.Skip("machine: no setpriv that takes capabilities")
	}
	script := filepath.Join(t.TempDir(), "vcgroupfs") // it may not raise the limit again
	text := "#!/bin/sh\nulimit -n 512\nexec " + setpriv + " --inh-caps -sys_resource --bounding-set -sys_resource " + kit.Program(t) + ` "$@"` + "\n"
	if err := os.WriteFile(script, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	d := kit.StartDaemonOf(t, script)
	bad, good, other := kit.NewPlace(t, d, "bad"), kit.NewPlace(t, d, "good"), kit.NewPlace(t, d, "other")
	d.WantTry(t, 0, "", bad.Add("bad")...)
	d.WantTry(t, 0, "", good.Add("good")...)
	d.WantLog(t, "this process may have 512 descriptors only")
	if err := unix.Mkdir(bad.At("a"), 0o755); err != nil {
		t.Fatal(err)
	}
	hold := func(path string, most int) (n int, err error) {
		for ; n < most; n++ {
			fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
			if err != nil {
				return n, err
			}
			t.Cleanup(func() { unix.Close(fd) })
		}
		return n, nil
	}
	held, err := hold(bad.At("a/cgroup.procs"), 4096)
	if !errors.Is(err, unix.ENFILE) {
		t.Errorf("%d opens, then %v; want ENFILE", held, err)
	}
	for again := range 2 {
		if n, err := hold(good.At("cgroup.procs"), 16); err != nil {
			t.Errorf("the other guest has %d files open, then %v", n, err)
		}
		d.WantTry(t, 0, "good", "guest", "ls")
		if again == 0 {
			d.WantTry(t, 0, "", other.Add("other")...)
			d.Signal(t, unix.SIGKILL, 0)
			d.Ready(t)
		}
	}
	more, err := hold(bad.At("a/cgroup.procs"), 4096)
	if more > 0 || !errors.Is(err, unix.ENFILE) {
		t.Errorf("after another worker it has %d more, then %v", more, err)
	}
	t.Logf("of 512 descriptors one guest holds %d; %d are the worker's", held, d.Usage().FDs)
}
