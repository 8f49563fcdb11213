package kit

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// PodmanCDI is where podman looks for devices beside /etc/cdi.
const PodmanCDI = "/var/run/cdi"

// NeedPodman finds podman.
func NeedPodman(t testing.TB) string {
	t.Helper()
	path, err := exec.LookPath("podman")
	if err != nil {
		t.Skip("machine: podman is not installed")
	}
	return path
}

// CheckPodman runs a container with options before and after "run".
func CheckPodman(t *testing.T, podman string, d *Daemon, before, of []string) {
	h := OpenHost(t)
	hier := NeedHierarchy(t, h, "pids")
	dir := PublicDir(t)
	rootfs := NewRootfs(t, filepath.Join(dir, "rootfs"))
	s := ViewScript(TopOf(GuestView, hier), hier.Version == hierarchy.V2)
	s.Put(t, rootfs)
	out, err := NewPodman(t, h, podman).Run("script", rootfs, before, append(of, "--pids-limit", "64")).CombinedOutput()
	if err != nil {
		t.Fatalf("podman: %v: %s", err, out)
	}
	s.Check(t, rootfs, out)
	if Exists(d.Self()) { // guests of self go by themselves; a hook has seen to it
		d.WantNone(t)
	}
	WantNothingLeft(t, d, h, "/no-cgroup-of-ours")
	d.Stop(t)
}

// Podman is one with a store of its own.
type Podman struct {
	program, Parent string   // the parent of its containers' cgroups
	Global          []string // options
}

// NewPodman makes a store for a podman.
func NewPodman(t *testing.T, h *host.Host, program string) *Podman {
	t.Helper()
	store, err := os.MkdirTemp("", "podman-") // its paths must be short
	if err != nil {
		t.Fatal(err)
	}
	p := &Podman{program, "/vcgroupfs-test-" + strconv.Itoa(os.Getpid()) + "-podman",
		[]string{"--root", store + "/root", "--runroot", store + "/run",
			"--tmpdir", store + "/tmp", "--cgroup-manager", "cgroupfs", "--runtime", "runc", "--events-backend", "none"}}
	RemoveEverywhere(t, h, p.Parent)
	t.Cleanup(func() {
		exec.Command(program, append(p.Global, "rm", "--all", "--force")...).Run()
		unix.Unmount(store+"/root/overlay", unix.MNT_DETACH)
		if err := os.RemoveAll(store); err != nil {
			t.Error(err)
		}
	})
	return p
}

// Run is the command that runs a container whose program plays a role. before are options of podman, of are those of
// its run.
func (p *Podman) Run(role, rootfs string, before, of []string) *exec.Cmd {
	return exec.Command(p.program, slices.Concat(p.Global, before,
		[]string{"run", "--rm", "--network", "none", "--cgroup-parent", p.Parent,
			"--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000", "--env", RoleVariable + "=" + role}, of,
		[]string{"--rootfs", rootfs, "/program"})...)
}
