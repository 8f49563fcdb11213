package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// legacyControllers are what a program looks for that knows cgroup v1 alone.
const legacyControllers = "cpu,cpuacct,memory,pids,blkio,cpuset,freezer,name=systemd"

// needUnified skips a test on a host that has v1, too: there layout v1 shows the host's own.
func needUnified(t *testing.T, h *host.Host) *host.Hierarchy {
	t.Helper()
	hier := kit.NeedHierarchy(t, h, "memory")
	if hier.Version != hierarchy.V2 {
		t.Skip("machine: memory is not on the v2 hierarchy")
	}
	return hier
}

// legacyScript prints what the limits of the boundary are and what comes of changing them, makes a cgroup with limits
// and a process in it, and removes that after a line of input. DEVICE is that of a disk, or nothing.
const legacyScript = `
cd /sys/fs/cgroup || exit 1
limits() {
	echo $1: $(cat memory/$2/memory.limit_in_bytes memory/$2/memory.memsw.limit_in_bytes cpu/$2/cpu.shares cpu/$2/cpu.cfs_quota_us \
		cpu/$2/cpu.cfs_period_us cpuset/$2/cpuset.cpus pids/$2/pids.max blkio/$2/blkio.throttle.read_bps_device)
}
all=
for dir in */; do [ -L ${dir%/} ] || all="$all ${dir%/}"; done
limits boundary .
for change in memory/memory.limit_in_bytes=1G memory/memory.memsw.limit_in_bytes=1G cpu/cpu.shares=2048 cpu/cpu.cfs_quota_us=-1 \
	cpu/cpu.cfs_period_us=50000 cpuset/cpuset.cpus=0-1 pids/pids.max=max freezer/freezer.state=FROZEN \
	"blkio/blkio.throttle.read_bps_device=DEVICE 2097152"; do
	said=$( (echo "${change#*=}" >"${change%%=*}") 2>&1) && said=changed
	echo "${change%%=*}: ${said##*: }"
done
limits boundary .
for hier in $all; do mkdir $hier/a || exit 1; done
echo 64M >memory/a/memory.limit_in_bytes
echo 96M >memory/a/memory.memsw.limit_in_bytes
echo 512 >cpu/a/cpu.shares
echo 20000 >cpu/a/cpu.cfs_quota_us
echo 0 >cpuset/a/cpuset.cpus
echo 8 >pids/a/pids.max
[ -z "DEVICE" ] || echo "DEVICE 1048576" >blkio/a/blkio.throttle.read_bps_device
sleep 1000 &
for hier in $all; do echo $! >$hier/a/tasks || exit 1; done
limits below a
echo in: $(for hier in $all; do ! grep -qx $! $hier/a/cgroup.procs || echo $hier; done)
read x
kill $!; wait $! 2>/dev/null
for hier in $all; do rmdir $hier/a || exit 1; done
echo removed`

// TestRunLegacy is what is promised of "run --layout v1" on a host with v2 alone: the limits of v1 that a shell sets in
// the guest are the host's of v2, and those of the boundary nobody in the guest changes.
func TestRunLegacy(t *testing.T) {
	h := kit.OpenHost(t)
	hier := needUnified(t, h)
	for _, form := range [][]string{nil, {"--userns"}} {
		t.Run(kit.FormName(form), func(t *testing.T) {
			name := "legacy-" + strconv.Itoa(os.Getpid())
			args := append([]string{"run", "--name", name, "--layout", "v1", "--controllers", legacyControllers,
				"--limit", "memory.max=256M", "--limit", "pids.max=64", "--limit", "cpu.max=50000 100000", "--limit", "cpuset.cpus=0"}, form...)
			const unlimited = " 9223372036854771712 1024 50000 100000 0 64"
			boundary, below := "boundary: 268435456"+unlimited, "below: 67108864 100663296 512 20000 100000 0 8"
			want := map[string]string{
				"memory.max": "67108864", "memory.swap.max": "33554432", "cpu.weight": "59", "cpu.max": "20000 100000", "cpuset.cpus": "0", "pids.max": "8",
			}
			device := blockDevice()
			if device != "" {
				args = append(args, "--limit", "io.max="+device+" rbps=4194304")
				boundary, below = boundary+" "+device+" 4194304", below+" "+device+" 1048576"
				want["io.max"] = device + " rbps=1048576 wbps=max riops=max wiops=max"
			}
			t.Logf("io.max of device %q", device)
			cmd := exec.Command(kit.Program(t), append(args, "--", "sh", "-c", strings.ReplaceAll(legacyScript, "DEVICE", device))...)
			cmd.Stderr = os.Stderr
			g := kit.StartProcess(t, cmd)
			refused := ": Operation not permitted"
			for _, line := range []string{
				boundary, "memory/memory.limit_in_bytes" + refused, "memory/memory.memsw.limit_in_bytes" + refused, "cpu/cpu.shares" + refused,
				"cpu/cpu.cfs_quota_us" + refused, "cpu/cpu.cfs_period_us" + refused, "cpuset/cpuset.cpus" + refused, "pids/pids.max" + refused,
				"freezer/freezer.state" + refused, "blkio/blkio.throttle.read_bps_device" + refused, boundary, below,
				"in: blkio cpu,cpuacct cpuset freezer memory pids systemd",
			} {
				if got := g.Line(t); got != line {
					t.Errorf("the guest says %q, want %q", got, line)
				}
			}
			dir := kit.HostDir(hier, "/vcgroupfs/"+name+"/a")
			for file, value := range want {
				if got := strings.TrimSpace(kit.ReadFile(filepath.Join(dir, file))); got != value {
					t.Errorf("%s on the host: %s, want %s", file, got, value)
				}
			}
			if got := strings.Fields(kit.ReadFile(filepath.Join(dir, kit.Procs))); len(got) != 1 {
				t.Errorf("processes in %s: %q", dir, got)
			}
			g.In.Write([]byte("\n"))
			if got := g.Line(t); got != "removed" || kit.Exists(dir) {
				t.Errorf("the guest says %q, and %s is there: %v", got, dir, kit.Exists(dir))
			}
			g.End(t)
			kit.WantGone(t, h, name)
		})
	}
}
