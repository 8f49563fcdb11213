package doctor

import (
	"slices"
	"sync"
)

const (
	byPath  = "opens files by path"
	byMagic = "statfs: the kernel's number of cgroup2"
	byMount = "/proc/self/mountinfo: a file system of type cgroup2 or cgroup"
)

// Verdicts in the order of Sights.
var (
	all       = [6]Verdict{Yes, Yes, Yes, Yes, Yes, Yes}
	none      = [6]Verdict{No, No, No, No, No, No}
	v2        = [6]Verdict{Yes, Yes, No, No, No, No}
	v2Ignores = [6]Verdict{Yes, Yes, Ignores, Ignores, Ignores, Ignores}
	v2Else    = [6]Verdict{Yes, Yes, Unknown, Unknown, Unknown, Unknown}
	tmpfs     = [6]Verdict{No, No, No, No, Yes, Yes}
	stackedV1 = [6]Verdict{No, No, Yes, No, Yes, No}
	v2Stacks  = [6]Verdict{Yes, Yes, Yes, No, Yes, No}
	stacked   = [6]Verdict{Yes, Ignores, Yes, Ignores, Yes, Ignores}
	mountsV1  = [6]Verdict{Ignores, Ignores, Yes, Ignores, Yes, Ignores}
	found     = [6]Verdict{Yes, No, Yes, No, Yes, No}
)

// Kernels and tests of the runs.
const (
	hybrid  = "6.18, v1 and v2"
	onlyV2  = "6.12, v2"
	clients = "TestClients"

	typeTests    = "TestUnmodifiedSystemd"
	runtimeTests = "TestUnmodifiedRuntimes"
)

const (
	clone3  = "to start services, that clone3 answers ENOSYS, as runtimes' default seccomp profiles do"
	theType = "the type right"

	noStack  = "no --no-stack"
	viewOfV2 = "a view of v2"
)

var (
	sightsV2 = []Sight{Stacked, View}
	sightsV1 = []Sight{StackedDirs, Dirs, StackedTmpfs, Tmpfs}
)

// Clients returns the known programs. The table is made at the first call, which most runs of the program never do.
var Clients = sync.OnceValue(func() []Client { return slices.Concat(notedClients, askedClients()) })

// notedClients are the programs that TestClients, other tests and people ran. The verdicts without a run were read in
// the projects' own sources of August to November 2026.
var notedClients = []Client{
	client("systemd 236 to 256 as process 1", AsksType, byMagic+", or a tmpfs", tmpfs, all).
		instead(theType+", or --tmpfs on a host with v1").
		run("systemd 252.39", hybrid, Fuse, "TestSystemd", StackedTmpfs).
		run("systemd 247, 252", onlyV2, Fuse, "", View).
		run("systemd 252", onlyV2, ByBPF, "", View).
		run("systemd 247, 252", "", Notification, "", View).
		lent(No, Yes).run("systemd 252.39", hybrid, Fuse, typeTests, Lent).
		run("systemd 252.39", hybrid, Notification, typeTests, Lent),
	client("systemd 257 as process 1", AsksType, byMagic+", or a tmpfs", tmpfs, all).needs(clone3).
		instead(theType+", or --tmpfs on a host with v1").
		run("systemd 257.13", "", Notification, "", View).
		lent(No, Yes).run("systemd 257.13", hybrid, Fuse, typeTests, Lent).
		run("systemd 257.13", hybrid, Notification, typeTests, Lent),
	client("systemd 258 and newer as process 1", AsksType, byMagic, none, v2).onlyV2().needs(clone3).
		instead(theType+", and "+viewOfV2).
		run("systemd 262", "", Fuse, "", View).
		run("systemd 262", "", Notification, "", View).
		lent(No, Yes).run("systemd 262", hybrid, Fuse, typeTests, Lent).
		run("systemd 262", hybrid, Notification, typeTests, Lent),
	client("systemd-nspawn", AsksPath, "access of cgroup.procs", v2, v2).instead(viewOfV2).
		run("systemd-nspawn 252.39", hybrid, Fuse, "TestBind", View),
	client("runc in the guest", AsksBoth, byMagic+", else "+byMount, stackedV1, v2Stacks).
		needs("a user namespace of the guest").instead(theType+"; on v1 no --no-stack").
		tested("runc 1.1.5").
		run("runc 1.1.5, 1.1.15, 1.3.6", "", Notification, "", View).
		lent(No, Yes).run("runc 1.1.5, 1.1.15, 1.3.6", hybrid, Notification, runtimeTests, Lent).
		stackedLent(No, Unknown).run("runc 1.1.5", hybrid, Fuse, clients, StackedLent),
	client("crun in the guest", AsksType, byMagic+", or a tmpfs", tmpfs, all).
		needs("a user namespace of the guest").instead(theType+"; --tmpfs on a host with v1").
		tested("crun 1.8.1").
		run("crun 1.8.1, 1.21, 1.28", "", Notification, "", View).
		lent(No, Yes).run("crun 1.8.1, 1.21, 1.28", hybrid, Notification, runtimeTests, Lent).
		stackedLent(No, Unknown).run("crun 1.8.1", hybrid, Fuse, clients, StackedLent),
	client("Docker, podman, containerd in the guest", AsksBoth, byMagic+", else "+byMount, none, v2Else).
		instead(theType+", and "+viewOfV2).
		run("podman 4.3.1, 5.8.6; Docker 26.1.5 on containerd 1.7.24", "", Fuse, "", View).
		run("podman 4.3.1, 5.8.6; Docker 26.1.5 on containerd 1.7.24", "", Notification, "", View).
		lent(No, Yes).
		run("podman 4.3.1, 5.4.2, 5.8.6; Docker 26.1.5 on containerd 1.7.24", hybrid, Fuse, runtimeTests, Lent).
		run("podman 4.3.1, 5.4.2, 5.8.6; Docker 26.1.5 on containerd 1.7.24", hybrid, Notification, runtimeTests, Lent),
	client("kubelet, cAdvisor in the guest", AsksBoth, byMagic+", else "+byMount, none, v2Else).
		instead(theType + ", and " + viewOfV2),
	client("Go 1.25 and newer, automaxprocs", AsksMounts, byMount+", then by path", stacked, stacked).instead(noStack).
		tested("Go 1.26.8, automaxprocs 1.6.0").lent(Ignores, Ignores),
	client("JDK 11 to 24, until June 2026", AsksMounts, "/proc/cgroups, then "+byMount, stacked, stacked).instead(noStack).
		tested("OpenJDK 17.0.15").
		run("OpenJDK 17.0.19", "", Fuse, "", Stacked, StackedDirs).
		lent(Ignores, Ignores).stackedLent(Yes, Yes).
		run("OpenJDK 17.0.15", hybrid, Fuse, clients, StackedLent).
		run("OpenJDK 17.0.15", hybrid, Notification, "TestLentRun", StackedLent),
	client("JDK 25 and newer, others since July 2026", AsksBoth, byMagic+", else /proc/cgroups, then "+byMount, mountsV1,
		stacked).
		instead(theType+" and no --no-stack, or the limits as options (-Xmx, -XX:ActiveProcessorCount)").
		run("OpenJDK 17.0.21.1, 21.0.13", "", Fuse, "", Stacked, StackedDirs).
		tested("OpenJDK 25.0.5").
		run("OpenJDK 25.0.5", "", Notification, "", sightsV2...).
		lent(Ignores, Ignores).stackedLent(Ignores, Yes).
		run("OpenJDK 25.0.5", hybrid, Fuse, clients, StackedLent).
		run("OpenJDK 25.0.5", hybrid, Notification, "", StackedLent),
	client(".NET", AsksBoth, byMagic+", else "+byMount, mountsV1, stacked).
		instead(theType + " and no --no-stack, or DOTNET_GCHeapHardLimit"),
	client("Node.js 20 and newer (libuv 1.45)", AsksPath, byPath, all, all).
		tested("Node.js 20.20.2 (libuv 1.46)").
		lent(Ignores, Ignores).stackedLent(Ignores, Ignores).
		run("Node.js 20.20.2 (libuv 1.46)", hybrid, Fuse, clients, StackedLent).
		run("Node.js 20.20.2, 22.12.0 (libuv 1.49), 26.10.0 (libuv 1.52)", hybrid, Notification, "", StackedLent),
	client("Rust 1.64 and newer", AsksPath, byPath+" (available_parallelism)", all, all).
		tested("Rust 1.95.0").
		lent(Ignores, Ignores).stackedLent(Ignores, Ignores).
		run("Rust 1.95.0", hybrid, Fuse, clients, StackedLent).
		run("Rust 1.95.0", hybrid, Notification, "", StackedLent),
	client("telegraf, scripts, all that read by path", AsksPath, byPath, all, all).
		run("telegraf 1.37.2 (inputs.cgroup)", hybrid, Fuse, "", Dirs).
		tested("the tests' own reader, like telegraf's").lent(Yes, Yes).stackedLent(Yes, Yes).
		run("the tests' own reader, like telegraf's", hybrid, Fuse, clients, StackedLent),
	client("btop 1.4.6 and newer", AsksPath, byPath, v2Ignores, v2Ignores).
		instead(viewOfV2).
		run("btop 1.4.7", hybrid, Fuse, "TestClientsCpuset", StackedDirs).
		run("btop 1.4.7", onlyV2, Fuse, "TestClientsCpuset", Stacked),
	client("libcgroup (cgcreate, cgget)", AsksMounts, byMount, found, found).
		instead(noStack+", or the files themselves").
		tested("libcgroup 2.0.2").
		lent(No, No).stackedLent(Yes, Yes).
		run("libcgroup 2.0.2", hybrid, Fuse, clients, StackedLent).
		run("libcgroup 2.0.2", hybrid, Notification, "", StackedLent),
	client("collectd (cgroups plugin)", AsksMounts,
		"/proc/mounts: a file system of type cgroup with the option cpuacct, then by path", stackedV1, stackedV1).onlyV1().
		instead("a view of v1, and "+noStack).
		run("collectd 5.12.0", "", Kernel, "", V1).
		run("collectd 5.12.0", "", Notification, "", StackedDirs, Dirs),
}
