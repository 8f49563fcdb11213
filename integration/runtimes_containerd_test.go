package integration

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// memoryScript reads and tries the limit of 64 MiB, and makes a child with a limit of its own.
func memoryScript(hier *host.Hierarchy) kit.Script {
	dir, file := kit.TopOf(kit.GuestView, hier), "memory.max"
	s := kit.Script{}
	add := func(line, want string) { s.Lines, s.Want = append(s.Lines, line), append(s.Want, want) }
	if hier.Version == hierarchy.V1 {
		file = "memory.limit_in_bytes"
	} else {
		add(fmt.Sprintf(`write "%s/cgroup.subtree_control" "+memory"`, dir), "=ok")
	}
	add(fmt.Sprintf(`read "%s/%s"`, dir, file), `="67108864\n"`)
	add(fmt.Sprintf(`write "%s/%s" "max"`, dir, file), "=EPERM")
	add(fmt.Sprintf(`mkdir "%s/child"`, dir), "=ok")
	add(fmt.Sprintf(`write "%s/child/%s" "33554432"`, dir, file), "=ok")
	return s
}

// TestContainerd: with the plugin connected to containerd a pod that asks for a view has one, a pod that asks for none is as without the
// plugin, where a container can have the device that CDI describes, and one that cannot have what it asks for does not start. Nothing is left of any.
func TestContainerd(t *testing.T) {
	h := kit.OpenHost(t)
	hier := kit.NeedHierarchy(t, h, "memory")
	c := kit.StartContainerd(t, h)
	d := kit.StartDaemon(t)
	stop := c.StartPlugin(t, d.Socket)
	view := map[string]string{"cgroups.vcgroupfs.dev/container.worker": "true"}
	inside := kit.PublicDir(t)
	t.Cleanup(func() { os.Remove(inside + "/in"); os.Remove(inside + "/out") })

	s := memoryScript(hier)
	forms := []map[string]string{view, view} // the second finds nothing of the first
	if hier.Version == hierarchy.V1 {
		forms = append(forms, map[string]string{"cgroups.vcgroupfs.dev": "true", "tmpfs.cgroups.vcgroupfs.dev": "true"})
	}
	for _, annotations := range forms {
		s.Put(t, inside)
		pod, config := c.Pod(t, "viewed", annotations)
		if err := c.Run(t, pod, config, inside); err != nil {
			t.Fatal(err)
		}
		s.Check(t, inside, nil)
		if tmpfs := strings.Contains(kit.ReadFile(inside+"/out"), " /sys/fs/cgroup ro,nosuid,nodev,noexec,relatime - tmpfs "); tmpfs != (len(annotations) > 1) {
			t.Errorf("%v: mounted in the container: %s", annotations, kit.ReadFile(inside+"/out"))
		}
		kit.Eventually(t, "the guest to go", func() bool { info, err := d.Info(); return err == nil && info.Guests == 0 })
		c.Remove(t, pod)
	}

	pod, config := c.Pod(t, "plain", nil)
	s.Put(t, inside) // the plugin does nothing for it, and a device does the same
	if err := c.Run(t, pod, config, inside, kit.PackagedDevices(t, d, c.Dir+"/cdi")+"=view"); err != nil {
		t.Fatal(err)
	}
	s.Check(t, inside, nil)
	kit.Script{}.Put(t, inside)
	if err := c.Run(t, pod, config, inside); err != nil {
		t.Fatal(err)
	}
	if mounts := kit.ReadFile(inside + "/out"); !strings.Contains(mounts, " - cgroup") || strings.Contains(mounts, " - fuse") {
		t.Errorf("mounted in a container that asks for nothing: %s", mounts)
	}
	c.Remove(t, pod)

	for annotations, says := range map[[2]string]string{
		{"cgroups.vcgroupfs.dev", "yes"}: "allowed", {"controllers.cgroups.vcgroupfs.dev", "nonsense"}: "nonsense",
	} {
		refused := map[string]string{"cgroups.vcgroupfs.dev": "true"}
		refused[annotations[0]] = annotations[1]
		refuse(t, c, refused, inside, says)
	}
	kit.WantNothingLeft(t, d, h, "/no-cgroup-of-ours")
	stop()
	stop = c.StartPlugin(t, d.Dir+"/nobody.sock")
	refuse(t, c, view, inside, "nobody.sock")
	stop()
	d.Stop(t)
}

// refuse wants a container not to start.
func refuse(t *testing.T, c *kit.Containerd, annotations map[string]string, dir, says string) {
	t.Helper()
	pod, config := c.Pod(t, "refused", annotations)
	if err := c.Run(t, pod, config, dir); err == nil || !strings.Contains(err.Error(), says) {
		t.Errorf("%v: %v; want a refusal that says %q", annotations, err, says)
	}
	c.Remove(t, pod)
}
