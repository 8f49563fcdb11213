package doctor

// Sight is what a process finds at /sys/fs/cgroup.
type Sight string

const (
	None    Sight = "nothing"
	V2      Sight = "cgroup2" // the kernel's own
	V1      Sight = "v1"      // the kernel's own, with a mount for each hierarchy
	View    Sight = "view"    // of the v2 tree
	Stacked Sight = "stacked" // such a view over the kernel's own cgroup2
	Dirs    Sight = "dirs"    // a view with a directory for each hierarchy
	Tmpfs   Sight = "tmpfs"   // a tmpfs with a mount of a view for each hierarchy
)

// Sights are those that a view can give, with the option that gives them.
var Sights = []struct {
	Sight Sight
	How   string
}{
	{View, "a view of v2"}, {Stacked, "a view of v2 with --stack"}, {Dirs, "a view of v1"}, {Tmpfs, "a view of v1 with --tmpfs"},
}

// Verdict says whether a program accepts what it finds.
type Verdict string

const (
	Yes     Verdict = "yes"
	No      Verdict = "no"
	Ignores Verdict = "ignores" // it runs, and takes the host's values for its limits
	Other   Verdict = "-"       // it does not look there
)

// Client is a program, and what it makes of each sight. How it looks was read in its source; what was run is told of in
// docs/clients.md.
type Client struct {
	Name     string            `json:"name"`
	Looks    string            `json:"looks"` // how it tells what it finds
	Verdicts map[Sight]Verdict `json:"verdicts"`
	Instead  string            `json:"instead,omitempty"` // what to give it where it says no or ignores
}

func client(name, looks, instead string, view, stacked, dirs, tmpfs Verdict) Client {
	return Client{name, looks, map[Sight]Verdict{V2: Yes, V1: Yes, None: Other, View: view, Stacked: stacked, Dirs: dirs, Tmpfs: tmpfs}, instead}
}

// but is the client with another verdict on a sight.
func (c Client) but(s Sight, v Verdict) Client {
	c.Verdicts[s] = v
	return c
}

const (
	byPath  = "opens files by path"
	byMagic = "statfs: the kernel's magic number of cgroup2"
	byMount = "/proc/self/mountinfo: a file system of type cgroup2"
)

// Clients are the programs that are known. Sources: the projects' own, August to November 2026.
var Clients = []Client{
	client("systemd 236 to 258 as process 1", byMagic+", or a tmpfs", "--tmpfs on a host with v1; nothing on one with v2 alone", No, No, No, Yes),
	client("systemd 259 and newer as process 1", byPath, "a view of v2", Yes, Yes, No, No).but(V1, No),
	client("systemd-nspawn", "access of cgroup.procs", "a view of v2", Yes, Yes, No, No),
	client("runc, Docker, podman, containerd, kubelet, cAdvisor in the guest", byMagic+", then type cgroup in mountinfo", "the kernel's own cgroup2, read-only", No, No, No, No),
	client("crun in the guest", byMagic+", or a tmpfs", "--tmpfs on a host with v1", No, No, No, Yes),
	client("Go 1.25 and newer (GOMAXPROCS), automaxprocs", byMount+", then by path", "--stack", Ignores, Yes, Ignores, Ignores),
	client("JDK 11 to 24", "/proc/cgroups, then "+byMount, "--stack", Ignores, Yes, Ignores, Ignores),
	client("JDK 25 and newer, Corretto 8", byMagic, "the limits as options (-Xmx, -XX:ActiveProcessorCount)", Ignores, Ignores, Ignores, Ignores),
	client(".NET", byMagic, "DOTNET_GCHeapHardLimit", Ignores, Ignores, Ignores, Ignores),
	client("Node.js (libuv)", byPath, "", Yes, Yes, Yes, Yes),
	client("Rust (available_parallelism)", byPath, "", Yes, Yes, Yes, Yes),
	client("telegraf, shell scripts, whatever reads by path", byPath, "", Yes, Yes, Yes, Yes),
	client("btop", byPath, "a view of v2", Yes, Yes, Ignores, Ignores),
	client("libcgroup (cgcreate, cgget)", "/proc/mounts, then statfs", "the files themselves", No, Ignores, No, No),
}
