package kit

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// Docker is one of the test's own, without a network.
type Docker struct {
	Client []string // its command line
}

// StartDocker starts it, with a directory of CDI files that are there already, and gives it an image that has this test
// binary as /program. Its containers have user namespaces, or none.
func StartDocker(t *testing.T, h *host.Host, cdi string, userns bool) *Docker {
	t.Helper()
	programs, containerd := os.Getenv("VCGROUPFS_DOCKER"), os.Getenv("VCGROUPFS_CONTAINERD")
	if programs == "" || containerd == "" {
		t.Skip("machine: Docker 26 and containerd 1.7 are not here (.ci/docker.sh and .ci/containerd.sh get them)")
	}
	NeedRuntime(t, "runc")
	dir, err := os.MkdirTemp("", "docker-") // the paths of sockets must be short
	if err != nil {
		t.Fatal(err)
	}
	config := map[string]any{
		"data-root": dir + "/data", "exec-root": dir + "/exec", "pidfile": dir + "/pid",
		"hosts":    []string{"unix://" + dir + "/sock"},
		"features": map[string]bool{"cdi": true}, "cdi-spec-dirs": []string{cdi}, "cgroup-parent": DockerCgroup(),
		"storage-driver": "vfs",
		"bridge":         "none", "iptables": false, "ip6tables": false, "ip-forward": false, "ip-masq": false,
		"userland-proxy": false,
	}
	cmd := exec.Command(programs+"/usr/sbin/dockerd", "--config-file", dir+"/daemon.json")
	if userns { // of the ids that the machine's files give to a user: it finds others in their place
		config["userns-remap"] = "nobody:nogroup"
		script := "for id in uid gid; do mount --bind '" + dir + "'/ids /etc/sub$id || exit; done; exec \"$@\""
		cmd = exec.Command("unshare", append([]string{"--mount", "--propagation", "slave", "sh", "-c", script, "sh"},
			cmd.Args...)...)
	}
	text, _ := json.Marshal(config)
	for file, data := range map[string]string{"daemon.json": string(text),
		"ids": fmt.Sprintf("nobody:%[1]d:65536\nnogroup:%[1]d:65536\n", GuestID)} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil { // root of a user namespace is nobody here
		t.Fatal(err)
	}
	cmd.Env = append(os.Environ(), "PATH="+containerd+":"+os.Getenv("PATH"))
	StartContainerManager(t, h, cmd, dir, DockerCgroup())
	k := &Docker{Client: []string{programs + "/usr/bin/docker", "--config", dir, "--host", "unix://" + dir + "/sock"}}
	Eventually(t, "Docker", func() bool { return k.Command("version").Run() == nil })
	if out, err := k.Command("import", newLayer(t, dir), "program").CombinedOutput(); err != nil {
		t.Fatalf("docker import: %v: %s", err, out)
	}
	return k
}

// DockerCgroup is where Docker makes the cgroups of its containers, instead of in /docker.
func DockerCgroup() string { return "/" + Prefix + "docker" }

// Command is a command of Docker's client.
func (k *Docker) Command(args ...string) *exec.Cmd {
	return exec.Command(k.Client[0], append(k.Client[1:], args...)...)
}

// Run is the command that runs a container whose program plays a role, and which is removed when it has ended.
func (k *Docker) Run(role string, options ...string) *exec.Cmd {
	args := append([]string{"run", "--rm", "--interactive", "--network", "none", "--env", RoleVariable + "=" + role},
		options...)
	return k.Command(append(args, "program", "/program")...)
}
