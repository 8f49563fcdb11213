package doctor

// Sight is what a process finds at /sys/fs/cgroup.
type Sight string

const (
	None         Sight = "nothing"
	V2           Sight = "cgroup2"       // the kernel's own
	V1           Sight = "v1"            // the kernel's own, with a mount for each hierarchy
	View         Sight = "view"          // of the v2 tree
	Stacked      Sight = "stacked"       // such a view over the kernel's own cgroup2
	Dirs         Sight = "dirs"          // a view with a directory for each hierarchy
	StackedDirs  Sight = "stacked-dirs"  // such a view over the kernel's own mounts
	Tmpfs        Sight = "tmpfs"         // a tmpfs with a mount of a view for each hierarchy
	StackedTmpfs Sight = "stacked-tmpfs" // such a tmpfs over the kernel's own mounts
)

// Sights are those that a view can give, with the option that gives them.
var Sights = []struct {
	Sight Sight
	How   string
}{
	{View, "v2"}, {Stacked, "v2 --stack"}, {Dirs, "v1"}, {StackedDirs, "v1 --stack"}, {Tmpfs, "v1 --tmpfs"}, {StackedTmpfs, "v1 --tmpfs --stack"},
}

// Verdict says whether a program accepts what it finds.
type Verdict string

const (
	Yes     Verdict = "yes"
	No      Verdict = "no"
	Ignores Verdict = "ignores" // it runs, and takes the host's values for its limits
	Other   Verdict = "-"       // it does not look there
)

// Client is a program, and what it makes of each sight. TestClients of the integration tests compares that with what programs do;
// docs/clients.md tells which. The others were read in their sources.
type Client struct {
	Name     string            `json:"name"`
	Looks    string            `json:"looks"` // how it tells what it finds
	Verdicts map[Sight]Verdict `json:"verdicts"`
	Instead  string            `json:"instead,omitempty"` // what to give it where it says no or ignores
}

// client has a verdict for each of Sights, in their order.
func client(name, looks, instead string, verdicts ...Verdict) Client {
	c := Client{name, looks, map[Sight]Verdict{V2: Yes, V1: Yes, None: Other}, instead}
	for i, v := range verdicts {
		c.Verdicts[Sights[i].Sight] = v
	}
	return c
}

// but is the client with another verdict on a sight.
func (c Client) but(s Sight, v Verdict) Client {
	c.Verdicts[s] = v
	return c
}

const (
	byPath  = "opens files by path"
	byMagic = "statfs: the kernel's magic number of cgroup2"
	byMount = "/proc/self/mountinfo: a file system of type cgroup2 or cgroup"
)

// Clients are the programs that are known. Sources: the projects' own, August to November 2026.
var Clients = []Client{
	client("systemd 236 to 257 as process 1", byMagic+", or a tmpfs", "--tmpfs on a host with v1; nothing on one with v2 alone", No, No, No, No, Yes, Yes),
	client("systemd 258 as process 1", byMagic, "the kernel's own cgroup2; systemd 259", No, No, No, No, No, No).but(V1, No),
	client("systemd 259 and newer as process 1", byPath, "a view of v2", Yes, Yes, No, No, No, No).but(V1, No),
	client("systemd-nspawn", "access of cgroup.procs", "a view of v2", Yes, Yes, No, No, No, No),
	client("runc in the guest", byMagic+", else "+byMount, "--stack on a host with v1, in a user namespace, for containers without a cgroup mount", No, No, No, Yes, No, Yes),
	client("crun in the guest", byMagic+", or a tmpfs", "--tmpfs on a host with v1, in a user namespace", No, No, No, No, Yes, Yes),
	client("Docker, podman, containerd, kubelet, cAdvisor in the guest", byMagic+", else "+byMount, "the kernel's own cgroup2, read-only", No, No, No, No, No, No),
	client("Go 1.25 and newer (GOMAXPROCS), automaxprocs", byMount+", then by path", "--stack", Ignores, Yes, Ignores, Yes, Ignores, Yes),
	client("JDK 11 to 24 before the updates of July 2026", "/proc/cgroups, then "+byMount, "--stack", Ignores, Yes, Ignores, Yes, Ignores, Yes),
	client("JDK 25 and newer, updates since July 2026, Corretto 8", byMagic+", else /proc/cgroups, then "+byMount, "the limits as options (-Xmx, -XX:ActiveProcessorCount); --stack on a host with v1", Ignores, Ignores, Ignores, Yes, Ignores, Yes),
	client(".NET", byMagic+", else "+byMount, "DOTNET_GCHeapHardLimit; --stack on a host with v1", Ignores, Ignores, Ignores, Yes, Ignores, Yes),
	client("Node.js 20 and newer (libuv 1.45)", byPath, "", Yes, Yes, Yes, Yes, Yes, Yes),
	client("Rust 1.64 and newer (available_parallelism)", byPath, "", Yes, Yes, Yes, Yes, Yes, Yes),
	client("telegraf, shell scripts, whatever reads by path", byPath, "", Yes, Yes, Yes, Yes, Yes, Yes),
	client("btop 1.4.6 and newer", byPath, "a view of v2", Yes, Yes, Ignores, Ignores, Ignores, Ignores),
	client("libcgroup (cgcreate, cgget)", byMount, "--stack, or the files themselves", No, Yes, No, Yes, No, Yes),
}
