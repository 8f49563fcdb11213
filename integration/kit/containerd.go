package kit

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// Containerd is one of the test's own, with NRI and CRI and without a network.
type Containerd struct {
	bin, Dir string // its programs, and where all that it has is
	cgroup   string // of all its pods
	cri      *CRIClient
}

const testImage = "vcgroupfs.test/program:1"

// StartContainerd starts it and gives it an image that has this test binary as /program.
func StartContainerd(t *testing.T, h *host.Host) *Containerd {
	t.Helper()
	bin := os.Getenv("VCGROUPFS_CONTAINERD")
	if bin == "" {
		t.Skip("machine: containerd 1.7 is not here (.ci/containerd.sh gets it)")
	}
	runc := NeedRuntime(t, "runc")
	dir, err := os.MkdirTemp("", "containerd-") // the paths of sockets must be short
	if err != nil {
		t.Fatal(err)
	}
	c := &Containerd{bin: bin, Dir: dir, cgroup: "/vcgroupfs-test-" + strconv.Itoa(os.Getpid()) + "-containerd",
		cri: newCRIClient(dir + "/sock")}
	config := fmt.Sprintf(`version = 2
root = "%[1]s/root"
state = "%[1]s/state"
[grpc]
  address = "%[1]s/sock"
[ttrpc]
  address = "%[1]s/ttrpc"
[plugins."io.containerd.internal.v1.opt"]
  path = "%[1]s/opt"
[plugins."io.containerd.nri.v1.nri"]
  disable = false
  socket_path = "%[1]s/nri.sock"
  plugin_path = "%[1]s/none"
  plugin_config_path = "%[1]s/none"
[[plugins."io.containerd.transfer.v1.local".unpack_config]]
  platform = "linux/%[4]s"
  snapshotter = "native"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "%[2]s"
  restrict_oom_score_adj = true
  enable_cdi = true
  cdi_spec_dirs = ["%[1]s/cdi"]
  [plugins."io.containerd.grpc.v1.cri".cni]
    conf_dir = "%[1]s/none"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        BinaryName = "%[3]s"
        Root = "%[1]s/runc"
`, dir, testImage, runc, runtime.GOARCH)
	if err := os.WriteFile(dir+"/config.toml", []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin+"/containerd", "--config", dir+"/config.toml")
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"))
	StartContainerManager(t, h, cmd, dir, c.cgroup)
	Eventually(t, "containerd", func() bool { _, err := c.cri.call("Version", nil); return err == nil })
	c.load(t)
	return c
}

// load imports the image, as docker save writes one.
func (c *Containerd) load(t *testing.T) {
	t.Helper()
	raw, err := os.ReadFile(newLayer(t, c.Dir))
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(raw)
	config, _ := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux",
		"config": map[string]any{"Entrypoint": []string{"/program"}, "Env": []string{"PATH=/", RoleVariable + "=pause"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + hex.EncodeToString(sum[:])}},
	})
	manifest, _ := json.Marshal([]any{map[string]any{"Config": "config.json", "RepoTags": []string{testImage},
		"Layers": []string{"layer.tar"}}})
	image, err := os.Create(filepath.Join(c.Dir, "image.tar"))
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	w := tar.NewWriter(image)
	for _, f := range []struct {
		name string
		data []byte
	}{{"config.json", config}, {"layer.tar", raw}, {"manifest.json", manifest}} {
		if err := w.WriteHeader(&tar.Header{Name: f.name, Mode: 0o644, Size: int64(len(f.data))}); err != nil {
			t.Fatal(err)
		}
		w.Write(f.data)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(c.bin+"/ctr", "--address", c.Dir+"/sock", "--namespace", "k8s.io", "images", "import",
		"--snapshotter", "native", image.Name()).CombinedOutput()
	if err != nil {
		t.Fatalf("ctr: %v: %s", err, out)
	}
}

// Pod runs a pod with annotations and says its id. It has the host's network.
func (c *Containerd) Pod(t *testing.T, name string, annotations map[string]string) (id string, config []byte) {
	t.Helper()
	config = message(1, message(1, name, 2, name+"-uid", 3, "default"), 7, annotations,
		// namespace options: network of the node, pids of the container
		8, message(1, c.cgroup, 2, message(1, message(1, 2, 2, 1))))
	answer, err := c.cri.call("RunPodSandbox", message(1, config))
	if err != nil {
		t.Fatal(err)
	}
	raw, _ := field(answer, 1)
	t.Cleanup(func() { c.cri.call("RemovePodSandbox", message(1, string(raw))) }) // of a test that failed; stops it, too
	return string(raw), config
}

// Run runs a container of a pod until it has ended. It plays the script in a directory, may use 64 MiB, and has devices
// that CDI describes.
func (c *Containerd) Run(t *testing.T, pod string, podConfig []byte, dir string, devices ...string) error {
	t.Helper()
	mounts := func(file string) []byte { return message(1, "/"+file, 2, filepath.Join(dir, file)) }
	config := message(1, message(1, "worker"), 2, message(1, testImage), 3, []string{"/program"}, 6,
		message(1, RoleVariable, 2, "script"),
		7, mounts("in"), 7, mounts("out"), 15, message(1, message(4, 64<<20)))
	for _, name := range devices {
		config = append(config, message(17, message(1, name))...)
	}
	answer, err := c.cri.call("CreateContainer", message(1, pod, 2, config, 3, podConfig))
	if err != nil {
		return err
	}
	id, _ := field(answer, 1)
	defer func() {
		if _, err := c.cri.call("RemoveContainer", message(1, string(id))); err != nil {
			t.Error(err)
		}
	}()
	if _, err := c.cri.call("StartContainer", message(1, string(id))); err != nil {
		return err
	}
	const exited = 2
	var code uint64
	Eventually(t, "the container to end", func() bool {
		answer, err := c.cri.call("ContainerStatus", message(1, string(id)))
		if err != nil {
			t.Fatal(err)
		}
		status, _ := field(answer, 1)
		_, state := field(status, 3)
		_, code = field(status, 7)
		return state == exited
	})
	if code != 0 {
		t.Errorf("the container ended with status %d", code)
	}
	return nil
}

// Remove stops and removes a pod.
func (c *Containerd) Remove(t *testing.T, pod string) {
	t.Helper()
	for _, method := range []string{"StopPodSandbox", "RemovePodSandbox"} {
		if _, err := c.cri.call(method, message(1, pod)); err != nil {
			t.Error(err)
		}
	}
}

// StartPlugin connects the NRI plugin of a daemon.
func (c *Containerd) StartPlugin(t *testing.T, socket string) (stop func()) {
	t.Helper()
	cmd := exec.Command(AbsProgram(t), "--log-level", "info", "nri", "--nri-socket", c.Dir+"/nri.sock", "--program",
		AbsProgram(t), "--socket", socket)
	said, err := os.Create(filepath.Join(c.Dir, "nri.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer said.Close()
	cmd.Stderr = said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop = func() {
		cmd.Process.Signal(unix.SIGTERM)
		cmd.Wait()
	}
	t.Cleanup(stop)
	Eventually(t, "the plugin to serve", func() bool {
		return strings.Contains(ReadFile(said.Name()),
			"serving the runtime")
	})
	return stop
}
