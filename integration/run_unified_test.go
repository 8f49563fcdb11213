package integration

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// blockDevice is the number of some block device, "" when there is none.
func blockDevice() string {
	found, _ := filepath.Glob("/sys/block/*/dev")
	for _, f := range found {
		return strings.TrimSpace(kit.ReadFile(f))
	}
	return ""
}

// TestRunUnified is what is promised of "run" on a host with v2 alone: limits of every kind hold, the guest's root works as
// a root, and what it makes below it limits, freezes and kills.
func TestRunUnified(t *testing.T) {
	h := kit.OpenHost(t)
	if hier := h.Hierarchy("memory"); hier == nil || hier.Version != hierarchy.V2 {
		t.Skip("machine: memory is not on the v2 hierarchy")
	}
	name := "unified-" + strconv.Itoa(os.Getpid())
	args := []string{"--name", name, "--controllers", "cpu,cpuset,memory,pids,io",
		"--limit", "memory.max=256M", "--limit", "pids.max=64", "--limit", "cpu.max=50000 100000", "--limit", "cpuset.cpus=0"}
	want := []string{
		"268435456 64 50000 100000 0", "refused memory.max", "refused pids.max", "refused cpu.max", "refused cpuset.cpus", "refused cgroup.freeze",
		"268435456 64 50000 100000 0", "enabled: cpuset cpu memory pids", "root holds processes", "child: 67108864 8 10000 100000 0", "frozen 1", "frozen 0", "killed",
	}
	device := blockDevice()
	if device != "" {
		args = append(args, "--limit", "io.max="+device+" rbps=1048576")
		want = append(want, "refused io.max", device+" rbps=1048576 wbps=max riops=max wiops=max")
	}
	t.Logf("io.max of device %q", device)
	got := kit.RunGuest(t, args, `
cd /sys/fs/cgroup || exit 1
limits() { echo $(cat memory.max pids.max cpu.max cpuset.cpus); }
limits
for f in memory.max pids.max cpu.max cpuset.cpus io.max cgroup.freeze; do
	(echo max >$f) 2>/dev/null || echo refused $f
done
limits
cat io.max
echo "+memory +pids +cpu +cpuset" >cgroup.subtree_control && echo enabled: $(cat cgroup.subtree_control)
[ -n "$(cat cgroup.procs)" ] && echo root holds processes
mkdir a && echo 64M >a/memory.max && echo 8 >a/pids.max && echo 10000 >a/cpu.max && echo 0 >a/cpuset.cpus
echo child: $(cat a/memory.max a/pids.max a/cpu.max a/cpuset.cpus)
sleep 1000 & echo $! >a/cgroup.procs
wait_for() { until grep -q "$1" a/cgroup.events; do :; done; echo $1; }
echo 1 >a/cgroup.freeze; wait_for "frozen 1"
echo 0 >a/cgroup.freeze; wait_for "frozen 0"
echo 1 >a/cgroup.kill; until grep -q "populated 0" a/cgroup.events; do :; done; echo killed
rmdir a
`)
	for _, w := range want {
		if !strings.Contains("\n"+got.Stdout, "\n"+w+"\n") {
			t.Errorf("no line %q", w)
		}
	}
	if got.Status != 0 || t.Failed() {
		t.Errorf("status %d: %s%s", got.Status, got.Stdout, got.Stderr)
	}
	kit.WantGone(t, h, name)
}
