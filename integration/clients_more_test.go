package integration

import (
	"debug/buildinfo"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// What "make clients" says: the tree of .ci/tree.sh with the programs, and whether what they do is noted only, not compared.
const (
	clientsTree   = "VCGROUPFS_CLIENTS"
	clientsUpdate = "VCGROUPFS_CLIENTS_UPDATE"
)

// clientsShell begins what is run in the container: packages of R and of MPI have their libraries where their scripts would link them.
const clientsShell = `export HOME=/tmp LANG=C.UTF-8 PATH=/usr/bin:/usr/sbin:/opt/bin
export LD_LIBRARY_PATH=/usr/lib/x86_64-linux-gnu/blas:/usr/lib/x86_64-linux-gnu/lapack
`

// untilLogged runs a server until it has logged a text, and prints its log.
func untilLogged(text, command string) string {
	return fmt.Sprintf(`cd /tmp; %s >/tmp/log 2>&1 & pid=$!
until grep -q %q /tmp/log || ! kill -0 $pid 2>/dev/null; do sleep 0.1; done
kill $pid; wait $pid; cat /tmp/log`, command, text)
}

// slurmScript runs a slurmd that limits its jobs by cgroups until it has started, or given up. Nothing else comes and goes meanwhile:
// it moves all processes of the top cgroup away, and fails where one has ended.
const slurmScript = `mkdir -p /tmp/slurm/spool; cd /tmp/slurm
printf '%s\n' ClusterName=c SlurmctldHost=localhost SlurmdSpoolDir=/tmp/slurm/spool SlurmdPidFile=/tmp/slurm/pid AuthType=auth/none \
	CredType=cred/none ProctrackType=proctrack/cgroup TaskPlugin=task/cgroup SlurmUser=root NodeName=localhost 'PartitionName=p Nodes=ALL' >slurm.conf
printf '%s\n' IgnoreSystemd=yes ConstrainRAMSpace=yes >cgroup.conf
slurmd-wlm -D -v -N localhost -f /tmp/slurm/slurm.conf 2>&1 | {
	while read -r line; do
		echo "$line"
		case $line in *"slurmd started"*) started=1; read -r pid </tmp/slurm/pid; kill "$pid" ;; esac
	done
	[ -n "$started" ]
}`

// asked is a program of the tree, and what its output then matches when it has found the limits.
type asked struct {
	row     string // in doctor's table
	what    string // how it is called there, before its version
	source  string // the package, or the Go module, whose version that is
	command string
	sees    string
	refuses string // what its output matches when it fails for what it finds
	writes  bool   // it makes cgroups, which where the runtime's own are mounted it may not
}

// moreClients are those that are asked for the limits of memory and of processor time.
var moreClients = []asked{
	{row: "Prometheus 3 (its memory limit)", what: "Prometheus", source: "prometheus", sees: "GOMEMLIMIT=188743680 ",
		command: untilLogged("GOMEMLIMIT", "echo >p.yml; prometheus --config.file=p.yml --storage.tsdb.path=data --web.listen-address=127.0.0.1:0")},
	{row: "VictoriaMetrics", what: "VictoriaMetrics", source: "victoria-metrics", sees: "limiting caches to 125829120 bytes",
		command: untilLogged("limiting caches", "victoria-metrics -storageDataPath=data -httpListenAddr=127.0.0.1:0")},
	{row: "ninja 1.13 and newer", what: "ninja", source: "ninja-build", sees: "default=2 ", command: "ninja --help 2>&1 || :"},
	{row: "GNU nproc (coreutils 9.8 and newer)", what: "coreutils", source: "coreutils", sees: "^1\n", command: "nproc"},
	{row: "uutils nproc", what: "uutils", source: "rust-coreutils", sees: "^1\n", command: "/usr/lib/cargo/bin/coreutils/nproc"},
	{row: "DuckDB", what: "DuckDB", source: "duckdb", sees: "160.0 MiB,1\n",
		command: `duckdb -csv -c "select current_setting('memory_limit'), current_setting('threads')"`},
	{row: "loky, joblib", what: "loky", source: "python3-loky", sees: "^1\n", command: "python3 -c 'import loky; print(loky.cpu_count())'"},
	{row: "dask (its memory limit)", what: "distributed", source: "python3-distributed", sees: fmt.Sprintf("^%d\n", clientMemory),
		command: "python3 -c 'from distributed.system import MEMORY_LIMIT; print(MEMORY_LIMIT)'"},
	{row: "Erlang/OTP", what: "Erlang/OTP", source: "erlang-base", sees: "^1\n",
		command: `erl -noshell -eval 'io:format("~p~n", [erlang:system_info(schedulers_online)]), halt().'`},
	{row: "R parallelly", what: "parallelly", source: "r-cran-parallelly", sees: "^1 \n",
		command: `Rscript -e 'cat(parallelly::availableCores(), "\n")'`},
	{row: "concurrent-ruby", what: "concurrent-ruby", source: "ruby-concurrent", sees: "^1.0\n",
		command: `ruby -e 'require "concurrent"; p Concurrent.available_processor_count'`},
	{row: "Bun", what: "Bun", source: "@oven/bun-linux-x64-baseline", sees: fmt.Sprintf("^%d\n", clientMemory),
		command: `/opt/node_modules/@oven/bun-linux-x64-baseline/bin/bun -p 'process.constrainedMemory()'`},
	{row: "Deno", what: "Deno", source: "@deno/linux-x64-glibc", sees: "^1\n",
		command: `/opt/node_modules/@deno/linux-x64-glibc/deno eval 'console.log(navigator.hardwareConcurrency)'`},
	{row: "HTCondor", what: "HTCondor", source: "condor", sees: "^200\n",
		command: "condor_config_val DETECTED_MEMORY DETECTED_CPUS"},
	{row: "Slurm (slurmd, cgroup plugin)", what: "Slurm", source: "slurmd", sees: "slurmd started", command: slurmScript, writes: true,
		refuses: "error: Unknown filesystem type mounted on /sys/fs/cgroup|error: can't stat /sys/fs/cgroup/systemd/|" +
			"fatal: /sys/fs/cgroup is not a valid cgroup2 mountpoint"},
	{row: "gopsutil (docker.CgroupMemOwn)", what: "gopsutil", source: "github.com/shirou/gopsutil/v4", sees: fmt.Sprintf("^%d\n", clientMemory),
		command: "/asks gopsutil"},
	{row: "go-zero (core/stat)", what: "go-zero", source: "github.com/zeromicro/go-zero", sees: "^busy\n", command: "/asks go-zero"},
	{row: "opencontainers/cgroups", what: "opencontainers/cgroups", source: "github.com/opencontainers/cgroups", sees: "^52428800\n",
		command: "/asks opencontainers", writes: true, refuses: "^error: no cgroup mount found in mountinfo"},
	{row: "containerd/cgroups", what: "containerd/cgroups", source: "github.com/containerd/cgroups/v3", sees: fmt.Sprintf("^%d\n", clientMemory),
		command: "/asks containerd", refuses: "^error: cgroups: cgroup mountpoint does not exist"},
	{row: "Docker's pkg/sysinfo", what: "docker", source: "github.com/docker/docker", sees: "^memory true pids true\n", command: "/asks docker"},
	{row: "Datadog agent (util/cgroups)", what: "datadog-agent", source: "github.com/DataDog/datadog-agent/pkg/util/cgroups",
		sees: fmt.Sprintf("^%d\n", clientMemory), command: "/asks datadog", refuses: "^error: no cgroup filesystem mounted"},
}

// TestClientsMore runs the programs that "make clients" fetches in containers with limits, once with the cgroups that the runtime mounts
// and then with each kind of view, and compares what each finds with doctor's table. What it prints as "ran" the table is made of.
func TestClientsMore(t *testing.T) {
	askInForms(t, "memory", moreClients, map[string]any{
		"memory": map[string]any{"limit": clientMemory}, "pids": map[string]any{"limit": clientPids},
		"cpu": map[string]any{"quota": 100000, "period": 100000},
	})
}

// TestClientsMoreCpuset does the like with those that look which processors they may use: one of the host's.
func TestClientsMoreCpuset(t *testing.T) {
	askInForms(t, "cpuset", cpusetClients, map[string]any{"cpu": map[string]any{"cpus": "1"}})
}

// cpusetClients are asked for the processors that they may use.
var cpusetClients = []asked{
	{row: "hwloc", what: "hwloc", source: "hwloc-nox", sees: `^PU L#0 \(P#1\)\n$`, command: "lstopo-no-graphics --only pu"},
	{row: "Open MPI (its slots)", what: "Open MPI", source: "openmpi-bin", sees: "slots=1 ",
		command: "mpirun.openmpi --allow-run-as-root --display allocation -n 1 true"},
}

// askInForms asks programs in containers with limits of a controller's, in each form.
func askInForms(t *testing.T, controller string, clients []asked, limits map[string]any) {
	tree := os.Getenv(clientsTree)
	if tree == "" {
		t.Skip("machine: the programs are those of make clients, " + clientsTree + " names no tree with them")
	}
	h := kit.OpenHost(t)
	limited := kit.NeedHierarchy(t, h, controller)
	forms := map[string][]string{"native": nil, "stack": nil, "plain": {"--no-stack"}}
	if limited.Version == hierarchy.V1 {
		forms["tmpfs-stack"], forms["tmpfs"] = []string{"--tmpfs"}, []string{"--tmpfs", "--no-stack"}
		forms["lent-stack"], forms["lent"] = []string{"--layout", "v2"}, []string{"--layout", "v2", "--no-stack"}
	}
	for _, name := range slices.Sorted(maps.Keys(forms)) {
		t.Run(name, func(t *testing.T) {
			askMore(t, h, limited, kit.StartDaemonWith(t, kit.Program(t), []string{"--no-bpf"}), tree, clients, limits, forms[name])
		})
		if name == "native" {
			continue
		}
		t.Run(name+"-bpf", func(t *testing.T) {
			kit.NeedType(t)
			askMore(t, h, limited, kit.StartDaemon(t), tree, clients, limits, forms[name])
		})
	}
}

func askMore(t *testing.T, h *host.Host, limited *host.Hierarchy, d *kit.Daemon, tree string, clients []asked, limits map[string]any, hookArgs []string) {
	runc := kit.NeedRuntime(t, "runc")
	b := kit.NewBundle(t, d, runc, "more", "commands", hookArgs...)
	b.Over(t, tree, map[string]string{
		"etc/hosts":         "127.0.0.1 localhost runc\n", // HTCondor looks for its host, and waits for an answer
		"etc/nsswitch.conf": "hosts: files\n",
		"asks":              kit.ReadFile(asksProgram()),
		"usr/bin/which":     "#!/bin/sh\ncommand -v \"$1\" || exit 1\n", // a link that debianutils' script would make; R asks it
	})
	// A link that the package's script would make.
	if err := os.Symlink("slurmstepd-wlm", filepath.Join(b.Dir, "rootfs/usr/sbin/slurmstepd")); err != nil {
		t.Fatal(err)
	}
	b.WithNamespaces("cgroup", "user")
	b.Allow(kit.AllCapabilities(t)) // slurmd sets its groups
	b.Mount("tmpfs", "tmpfs", "/tmp", "mode=1777")
	b.Linux()["resources"] = limits
	native := strings.HasSuffix(t.Name(), "/native")
	if native {
		delete(b.Config, "hooks")
	}
	b.Write(t)
	cmd := b.Command(runc)
	cmd.Stderr = os.Stderr
	x := kit.StartProcess(t, cmd)
	x.Ask(t, "read", "/proc/self/cgroup") // it runs
	says := d.DoctorOf(t, kit.InitOf(t, runc, b))
	for _, c := range clients {
		if native && c.writes || !native && says.TypeRight == "yes" && !says.AsksType(c.row) {
			continue // the latter do the same as with FUSE's type
		}
		t.Run(regexp.MustCompile(`[^\w.]+`).ReplaceAllString(c.row, "-"), func(t *testing.T) {
			out, err := exec.Command(runc, "exec", b.ID, "/bin/sh", "-c", clientsShell+c.command).CombinedOutput()
			got := client{sees: c.sees, refuses: c.refuses}.verdict(t, out, err)
			if got != "yes" {
				t.Logf("%s: %.2000s", got, out)
			}
			c.note(t, tree, limited, says, got)
			if want := says.Of(c.row); got != want && want != "?" && os.Getenv(clientsUpdate) == "" {
				t.Errorf("finds %s: %s, and doctor says %q; it printed:\n%.2000s", says.Sight, got, want, out)
			}
		})
	}
	x.End(t)
	if !native {
		kit.WantNothingLeft(t, d, h, b.Cgroup)
	}
	d.Stop(t)
}

// asksProgram is integration/clients/asks, which make clients builds beside the program under test.
func asksProgram() string { return filepath.Join(filepath.Dir(os.Getenv("VCGROUPFS")), "asks") }

// note prints a line for doctor's ran.tsv.
func (c asked) note(t *testing.T, tree string, limited *host.Hierarchy, says kit.Diagnosis, verdict string) {
	t.Helper()
	kernel, of := kernelSeries(), "fuse"
	if kernel += ", v2"; limited.Version == hierarchy.V1 {
		kernel = kernelSeries() + ", v1 and v2"
	}
	switch {
	case says.Sight == "v1" || says.Sight == "cgroup2":
		of = "kernel"
	case says.TypeRight == "yes":
		of = "bpf"
	}
	test, _, _ := strings.Cut(t.Name(), "/")
	line := []string{c.row, c.what + " " + c.version(t, tree), kernel, test, says.Sight, of, verdict}
	fmt.Printf("\nran\t%s\n", strings.Join(line, "\t"))
}

// version is the upstream version of the program's package, of the tree's list of packages, or of its module.
func (c asked) version(t *testing.T, tree string) string {
	t.Helper()
	for line := range strings.Lines(kit.ReadFile(filepath.Join(tree, "packages"))) {
		if name, version, _ := strings.Cut(strings.TrimSpace(line), " "); name == c.source {
			return regexp.MustCompile(`^\d+:|[+~]dfsg.*|[+~]ds.*|-[\d.+~a-z]*$`).ReplaceAllString(version, "")
		}
	}
	info, err := buildinfo.ReadFile(asksProgram())
	if err != nil {
		t.Fatal(err)
	}
	for _, module := range info.Deps {
		if module.Path == c.source {
			return strings.TrimSuffix(strings.TrimPrefix(module.Version, "v"), "+incompatible")
		}
	}
	t.Fatalf("%s is neither in the tree's list of packages nor one of the modules of %s", c.source, asksProgram())
	return ""
}

// kernelSeries is the running kernel's version without the last number: "6.12".
func kernelSeries() string {
	var name unix.Utsname
	if unix.Uname(&name) != nil {
		return "unknown"
	}
	return regexp.MustCompile(`^\d+\.\d+`).FindString(unix.ByteSliceToString(name.Release[:]))
}
