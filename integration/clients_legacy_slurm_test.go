package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// slurmSetup makes a network of the guest's own, in which the programs find an address that is not the loopback's, and
// starts a cluster of one node, which tracks its jobs by the freezer and bounds their memory and processors.
const slurmSetup = `
set -e
cd "$place/root"
cp -a etc "$place/etc"
mount --bind "$place/etc" etc
name=$(hostname)
echo "127.0.0.1 localhost $name" >etc/hosts
: >run/net
chroot . unshare --net=/run/net true
inside() { chroot . nsenter --net=/run/net "$@"; }
inside ip link set lo up
inside ip address add 192.0.2.1/32 dev lo
mkdir -p etc/slurm run/state run/spool
cat >etc/slurm/slurm.conf <<-END
	ClusterName=test
	SlurmctldHost=$name(127.0.0.1)
	SlurmUser=root
	AuthType=auth/none
	CredType=cred/none
	ProctrackType=proctrack/cgroup
	TaskPlugin=task/cgroup
	StateSaveLocation=/run/state
	SlurmdSpoolDir=/run/spool
	SlurmctldPidFile=/run/slurmctld.pid
	SlurmdPidFile=/run/slurmd.pid
	SlurmctldLogFile=/run/slurmctld.log
	SlurmdLogFile=/run/slurmd.log
	SlurmdDebug=debug
	SlurmdParameters=config_overrides
	SelectType=select/cons_tres
	SelectTypeParameters=CR_CPU_Memory
	NodeName=$name NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=256
	PartitionName=all Nodes=$name Default=YES State=UP
END
cat >etc/slurm/cgroup.conf <<-END
	CgroupMountpoint=/sys/fs/cgroup
	ConstrainCores=yes
	ConstrainRAMSpace=yes
	ConstrainSwapSpace=yes
END
inside slurmctld
inside slurmd
`

// slurm is a cluster of one node in a guest.
type slurm struct{ *legacyGuest }

func startSlurm(t *testing.T, h *host.Host, args ...string) *slurm {
	t.Helper()
	s := &slurm{startLegacyGuest(t, h, legacyControllers, args...)}
	if _, err := s.do(t, `test -e "$place/root/usr/sbin/slurmd"`); err != nil {
		t.Skipf("machine: there is no Slurm in the tree of %s", legacySuite)
	}
	setup := filepath.Join(kit.PublicDir(t), "setup")
	if err := os.WriteFile(setup, []byte(slurmSetup), 0o644); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(setup)
	if said, err := s.do(t, "exec sh "+setup); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	t.Cleanup(func() {
		if t.Failed() {
			said, _ := s.do(t, `tail -n 40 "$place"/root/run/slurm*.log`)
			t.Log(said)
		}
	})
	kit.Eventually(t, "the node", func() bool {
		said, err := s.does(t, "sinfo --noheader --format %T")
		return err == nil && said == "idle\n"
	})
	return s
}

// does runs one of Slurm's programs.
func (s *slurm) does(t *testing.T, command string) (said string, err error) {
	t.Helper()
	return s.do(t, s.in("root", "nsenter --net=/run/net "+command))
}

func (s *slurm) must(t *testing.T, command string) (said string) {
	t.Helper()
	said, err := s.does(t, command)
	if err != nil {
		t.Fatalf("%s: %v: %s", command, err, said)
	}
	return said
}

// step is a file of a job's step, on the host.
func (s *slurm) step(t *testing.T, job, controller, file string) string {
	t.Helper()
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	hier := kit.NeedHierarchy(t, s.h, controller)
	dir := kit.HostDir(hier, fmt.Sprintf("/vcgroupfs/%s/slurm_%s/uid_0/job_%s/step_batch", s.name, name, job))
	return strings.TrimSpace(kit.ReadFile(filepath.Join(dir, file)))
}

// TestUnmodifiedLegacySlurm: Slurm 20.11, which knows v1 alone, runs jobs in a guest on a host with v2 alone. A job's
// memory and processors are the host's limits of v2; it is cancelled, and one that takes more memory than it asked for is
// killed. With v1 on the host it does the same. A job is suspended where the freezer is the kernel's own, for Slurm's own
// process is in the job's cgroups of memory and processors, and not in that of the freezer.
func TestUnmodifiedLegacySlurm(t *testing.T) {
	t.Run("view", func(t *testing.T) {
		h := kit.OpenHost(t)
		testSlurm(t, startSlurm(t, h), kit.OnV1(h, "freezer"))
	})
	t.Run("proc", func(t *testing.T) {
		h := kit.OpenHost(t)
		needUnified(t, h)
		testSlurm(t, startSlurm(t, h, "--proc"), false)
	})
	t.Run("freezer", func(t *testing.T) {
		needUnified(t, kit.OpenHost(t))
		needTree(t, legacySuite)
		mountLegacy(t, "freezer")
		testSlurm(t, startSlurm(t, kit.OpenHost(t)), true)
	})
}

func testSlurm(t *testing.T, s *slurm, suspends bool) {
	v1 := kit.OnV1(s.h, "memory")
	job := strings.TrimSpace(s.must(t, `sbatch --parsable --mem=64 --cpus-per-task=1 --output=/run/job --wrap="exec sleep 1000"`))
	kit.Eventually(t, "the job", func() bool {
		// Slurm's own process is in the step, too, before it starts the job's.
		return len(strings.Fields(s.step(t, job, "memory", kit.Procs))) == 1 && s.must(t, "squeue --noheader --format %T") == "RUNNING\n"
	})
	want := map[string]string{"memory.max": "67108864", "memory.swap.max": "0"}
	if v1 {
		want = map[string]string{"memory.limit_in_bytes": "67108864", "memory.memsw.limit_in_bytes": "67108864"}
	}
	for file, value := range want {
		kit.Eventually(t, file+" "+value, func() bool { return s.step(t, job, "memory", file) == value })
	}
	if got := s.step(t, job, "cpuset", "cpuset.cpus"); got != "0" && got != "1" {
		t.Errorf("the host has the processors %q for the job, want one", got)
	}
	if suspends {
		for _, do := range [][2]string{{"suspend", "FROZEN"}, {"resume", "THAWED"}} {
			s.must(t, "scontrol "+do[0]+" "+job)
			kit.Eventually(t, do[0], func() bool { return s.step(t, job, "freezer", "freezer.state") == do[1] })
		}
	}
	s.must(t, "scancel "+job)
	kit.Eventually(t, "the end of the job", func() bool { return s.step(t, job, "memory", kit.Procs) == "ENOENT" })

	said, err := s.does(t, `srun --mem=64 --quiet sh -c "exit 7"`)
	if err == nil || err.Error() != "status 7" {
		t.Errorf("a job that ends with 7: %v: %s", err, said)
	}
	said, err = s.does(t, "srun --mem=64 tail /dev/zero") // which keeps all of the endless line
	if err == nil || err.Error() != "status 137" || !strings.Contains(said, "Killed") {
		t.Errorf("a job that takes more memory: %v: %s", err, said)
	}
	s.must(t, "scontrol shutdown")
	s.stop(t)
}
