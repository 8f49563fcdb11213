package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// docker is one of the test's own, without a network.
type docker struct {
	client []string // its command line
}

// startDocker starts it, with a directory of CDI files that are there already, and gives it an image that has this test binary as /program.
// Its containers have user namespaces, or none.
func startDocker(t *testing.T, h *host.Host, cdi string, userns bool) *docker {
	t.Helper()
	programs, containerd := os.Getenv("VCGROUPFS_DOCKER"), os.Getenv("VCGROUPFS_CONTAINERD")
	if programs == "" || containerd == "" {
		t.Skip("machine: Docker 26 and containerd 1.7 are not here (.ci/docker.sh and .ci/containerd.sh get them)")
	}
	needRuntime(t, "runc")
	dir, err := os.MkdirTemp("", "docker-") // the paths of sockets must be short
	if err != nil {
		t.Fatal(err)
	}
	config := map[string]any{
		"data-root": dir + "/data", "exec-root": dir + "/exec", "pidfile": dir + "/pid", "hosts": []string{"unix://" + dir + "/sock"},
		"features": map[string]bool{"cdi": true}, "cdi-spec-dirs": []string{cdi}, "cgroup-parent": dockerCgroup(), "storage-driver": "vfs",
		"bridge": "none", "iptables": false, "ip6tables": false, "ip-forward": false, "ip-masq": false, "userland-proxy": false,
	}
	cmd := exec.Command(programs+"/usr/sbin/dockerd", "--config-file", dir+"/daemon.json")
	if userns { // of the ids that the machine's files give to a user: it finds others in their place
		config["userns-remap"] = "nobody:nogroup"
		script := "for id in uid gid; do mount --bind '" + dir + "'/ids /etc/sub$id || exit; done; exec \"$@\""
		cmd = exec.Command("unshare", append([]string{"--mount", "--propagation", "slave", "sh", "-c", script, "sh"}, cmd.Args...)...)
	}
	text, _ := json.Marshal(config)
	for file, data := range map[string]string{"daemon.json": string(text), "ids": fmt.Sprintf("nobody:%[1]d:65536\nnogroup:%[1]d:65536\n", guestID)} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil { // root of a user namespace is nobody here
		t.Fatal(err)
	}
	cmd.Env = append(os.Environ(), "PATH="+containerd+":"+os.Getenv("PATH"))
	startManager(t, h, cmd, dir, dockerCgroup())
	k := &docker{client: []string{programs + "/usr/bin/docker", "--config", dir, "--host", "unix://" + dir + "/sock"}}
	eventually(t, "Docker", func() bool { return k.command("version").Run() == nil })
	if out, err := k.command("import", newLayer(t, dir), "program").CombinedOutput(); err != nil {
		t.Fatalf("docker import: %v: %s", err, out)
	}
	return k
}

// dockerCgroup is where Docker makes the cgroups of its containers, instead of in /docker.
func dockerCgroup() string { return "/" + testPrefix + "docker" }

func (k *docker) command(args ...string) *exec.Cmd {
	return exec.Command(k.client[0], append(k.client[1:], args...)...)
}

// run is the command that runs a container whose program plays a role, and which is removed when it has ended.
func (k *docker) run(role string, options ...string) *exec.Cmd {
	args := append([]string{"run", "--rm", "--interactive", "--network", "none", "--env", roleVariable + "=" + role}, options...)
	return k.command(append(args, "program", "/program")...)
}

// TestDocker: a container has its view by self as a volume, and by each of the devices that CDI describes.
func TestDocker(t *testing.T) {
	t.Run("default", func(t *testing.T) { testDocker(t, false) })
	t.Run("userns", func(t *testing.T) { testDocker(t, true) })
}

func testDocker(t *testing.T, userns bool) {
	h := openHost(t)
	tree := need(t, h, "pids")
	d := startSelf(t, "--container", dockerCgroup()+"/{id}")
	cdi := t.TempDir()
	kind := ourDevices(t, d, cdi)
	k := startDocker(t, h, cdi, userns)
	for _, option := range [][]string{
		{"--volume", d.self() + ":" + guestView}, {"--device", kind + "=self"}, {"--device", kind + "=view"},
	} {
		file := filepath.Join(t.TempDir(), "id")
		cmd := k.run("commands", append(option, "--pids-limit", "64", "--cidfile", file)...)
		cmd.Stderr = os.Stderr
		x := startProcess(t, cmd)
		x.ask(t, "read", "/proc/version") // it runs
		id := readFile(file)
		cgroup := dockerCgroup() + "/" + id
		if userns && option[0] == "--volume" { // Docker adds what statfs says of a volume's source, and self is read-only
			top := topOf(guestView, tree)
			if got := x.ask(t, "read", top+"/pids.max") + x.ask(t, "mkdir", top+"/child"); got != "64\nEROFS" {
				t.Errorf("a volume beside userns-remap: %q", got)
			}
		} else {
			x.useView(t, tree, "64", cgroup)
		}
		around := "where its seccomp filter forbids user namespaces"
		if userns {
			around = "the real cgroups are out of its reach"
		}
		pid, err := k.command("inspect", "--format", "{{.State.Pid}}", id).Output()
		if err != nil {
			t.Fatal(err)
		}
		d.wantTry(t, 0, around, "doctor", "--pid", strings.TrimSpace(string(pid)))
		x.in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: the container ended with %v", option, err)
		}
		d.wantNone(t)
		nothingLeft(t, d, h, cgroup)
	}
	d.stop(t)
}

// hostileDocker: with a user namespace --privileged would not do, it wants the host's.
func hostileDocker(t *testing.T, b *hostileBox, _ string) *exec.Cmd {
	cdi := t.TempDir()
	kind := ourDevices(t, b.d, cdi, "--policy", b.policy)
	profile := "unconfined"
	if b.answered {
		profile = ourProfile(t, b.d, "docker.json")
	}
	options := []string{"--cgroupns", "private", "--pids-limit", "1000", "--memory", "512m", "--device", kind + "=view", "--cap-add", "ALL",
		"--security-opt", "seccomp=" + profile, "--security-opt", "systempaths=unconfined", "--security-opt", "apparmor=unconfined"}
	return startDocker(t, b.h, cdi, b.userns).run(b.role, options...)
}
