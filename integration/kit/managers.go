package kit

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// StartContainerManager starts a manager of containers of the test's own, which has all that it has in a directory, and
// the cgroups of its containers below one. At the end nothing of it is left.
func StartContainerManager(t *testing.T, h *host.Host, cmd *exec.Cmd, dir, cgroup string) {
	t.Helper()
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	var made []string
	// wherever it is told to have its own
	for _, shared := range []string{"/run/containerd", "/run/containerd/s", "/run/docker", "/run/docker/plugins"} {
		if !Exists(shared) {
			made = append(made, shared)
		}
	}
	RemoveEverywhere(t, h, cgroup)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(ReadFile(log.Name()))
		}
		cmd.Process.Signal(unix.SIGTERM)
		cmd.Wait()
		log.Close()
		killAllOf(t, dir) // a test that failed leaves containers, which outlive it
		for _, path := range slices.Backward(made) {
			os.Remove(path)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
}

// newLayer makes the archive of a root file system that has this test binary as /program, for an image.
func newLayer(t *testing.T, dir string) (file string) {
	t.Helper()
	file = filepath.Join(dir, "layer.tar")
	if out, err := exec.Command("tar", "-C", NewRootfs(t, filepath.Join(dir, "rootfs")), "-cf", file,
		".").CombinedOutput(); err != nil {
		t.Fatalf("tar: %v: %s", err, out)
	}
	return file
}

// killAllOf ends the processes whose command line names a directory.
func killAllOf(t *testing.T, dir string) {
	t.Helper()
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if fd, err := unix.PidfdOpen(pid, 0); err == nil {
			if strings.Contains(ReadFile(file), dir+"/") {
				t.Errorf("process %d is left: %q", pid, ReadFile(file))
				unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
			}
			unix.Close(fd)
		}
	}
}
