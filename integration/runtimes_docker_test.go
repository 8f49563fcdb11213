package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// TestDocker: a container has its view by self as a volume, and by each of the devices that CDI describes.
func TestDocker(t *testing.T) {
	t.Run("default", func(t *testing.T) { testDocker(t, false) })
	t.Run("userns", func(t *testing.T) { testDocker(t, true) })
}

func testDocker(t *testing.T, userns bool) {
	h := kit.OpenHost(t)
	hier := kit.NeedHierarchy(t, h, "pids")
	d := kit.StartSelfDaemon(t, "--container", kit.DockerCgroup()+"/{id}")
	cdi := t.TempDir()
	kind := kit.PackagedDevices(t, d, cdi)
	k := kit.StartDocker(t, h, cdi, userns)
	for _, option := range [][]string{
		{"--volume", d.Self() + ":" + kit.GuestView}, {"--device", kind + "=self"}, {"--device", kind + "=view"},
	} {
		file := filepath.Join(t.TempDir(), "id")
		cmd := k.Run("commands", append(option, "--pids-limit", "64", "--cidfile", file)...)
		cmd.Stderr = os.Stderr
		x := kit.StartProcess(t, cmd)
		x.Ask(t, "read", "/proc/version") // it runs
		id := kit.ReadFile(file)
		cgroup := kit.DockerCgroup() + "/" + id
		if userns && option[0] == "--volume" { // Docker adds what statfs says of a volume's source, and self is read-only
			top := kit.TopOf(kit.GuestView, hier)
			if got := x.Ask(t, "read", top+"/pids.max") + x.Ask(t, "mkdir", top+"/child"); got != "64\nEROFS" {
				t.Errorf("a volume beside userns-remap: %q", got)
			}
		} else {
			x.UseView(t, hier, "64", cgroup)
		}
		around := "where its seccomp filter forbids user namespaces"
		if userns {
			around = "the real cgroups are out of its reach"
		}
		pid, err := k.Command("inspect", "--format", "{{.State.Pid}}", id).Output()
		if err != nil {
			t.Fatal(err)
		}
		d.WantTry(t, 0, around, "doctor", "--pid", strings.TrimSpace(string(pid)))
		x.In.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: the container ended with %v", option, err)
		}
		d.WantNone(t)
		kit.WantNothingLeft(t, d, h, cgroup)
	}
	d.Stop(t)
}
