package doctor

import "slices"

// Sight is the kind of file system that a process finds at /sys/fs/cgroup.
type Sight string

const (
	None         Sight = "nothing"
	V2           Sight = "cgroup2"       // the kernel's own
	V1           Sight = "v1"            // the kernel's own, with a mount for each hierarchy
	View         Sight = "view"          // of the v2 hierarchy
	Stacked      Sight = "stacked"       // such a view over the kernel's own cgroup2
	Dirs         Sight = "dirs"          // a view with a directory for each hierarchy
	StackedDirs  Sight = "stacked-dirs"  // such a view over the kernel's own mounts
	Tmpfs        Sight = "tmpfs"         // a tmpfs with a mount of a view for each hierarchy
	StackedTmpfs Sight = "stacked-tmpfs" // such a tmpfs over the kernel's own mounts

	// Of a process with v1's lines in /proc/self/cgroup, which some programs go by, before the one of v2.
	Lent        Sight = "lent"         // a view of v2
	StackedLent Sight = "stacked-lent" // such a view over the kernel's own cgroup2
)

var sightTexts = map[Sight]string{
	None: "nothing", V2: "the kernel's own cgroup2", V1: "the kernel's own v1 hierarchies",
	View: "a view of v2", Stacked: "a view of v2, over the kernel's own cgroup2",
	Dirs:         "a view with a directory for each hierarchy",
	StackedDirs:  "a view with a directory for each hierarchy, over the kernel's own mounts",
	Tmpfs:        "a tmpfs with a view for each hierarchy",
	StackedTmpfs: "a tmpfs with a view for each hierarchy, over the kernel's own mounts",
	Lent:         "a view of v2, on a host with v1",
	StackedLent:  "a view of v2, on a host with v1, over the kernel's own cgroup2",
}

// Text describes the sight, for people.
func (s Sight) Text() string { return sightTexts[s] }

// option is a sight that a view can give, with the options for it.
type option struct {
	Sight Sight
	How   string
}

// Sights are the sights that a view of the host's own layout can give. Every client has verdicts on them.
var Sights = []option{
	{Stacked, "v2"}, {View, "v2 --no-stack"}, {StackedDirs, "v1"}, {Dirs, "v1 --no-stack"},
	{StackedTmpfs, "v1 --tmpfs"}, {Tmpfs, "v1 --tmpfs --no-stack"},
}

// lentSights are those of a view of v2 on a host with v1. On them a client without a run has no verdict.
var lentSights = []option{{StackedLent, "v2 on a host with v1"}, {Lent, "v2 on a host with v1 --no-stack"}}

// Verdict is a program's reaction to a sight.
type Verdict string

const (
	Yes     Verdict = "yes"
	No      Verdict = "no"
	Ignores Verdict = "ignores" // it runs, with the host's values for its limits
	Other   Verdict = "-"       // it does not read that file system
	Unknown Verdict = "?"       // neither run nor read
)

// Asks is a program's way to recognise its sight, before it opens files by path.
type Asks string

const (
	AsksPath   Asks = "path"   // no other way
	AsksType   Asks = "type"   // statfs: the number of the file system's type
	AsksMounts Asks = "mounts" // /proc/self/mountinfo: a file system of type cgroup2 or cgroup
	AsksBoth   Asks = "both"
)

// Type is the source of the file-system type in statfs at the place.
type Type string

const (
	Fuse         Type = "fuse"         // FUSE's own number
	Kernel       Type = "kernel"       // the kernel's own number, of its own mounts, where no view is
	ByBPF        Type = "bpf"          // the kernel's number of the shown hierarchies, by BPF
	Notification Type = "notification" // the same, by seccomp's user notification
)

// Client is a program with its verdict on each sight, for both answers of statfs: FUSE's number and the kernel's own.
type Client struct {
	Name     string            `json:"name"`
	Asks     Asks              `json:"asks"`
	Looks    string            `json:"looks"` // Asks in more words
	Verdicts map[Sight]Verdict `json:"verdicts"`
	Typed    map[Sight]Verdict `json:"typed"`             // with the right type
	Needs    string            `json:"needs,omitempty"`   // further conditions for a yes
	Instead  string            `json:"instead,omitempty"` // the remedy for a no or an ignores
	Run      []Run             `json:"run,omitempty"`     // the observed runs; all other verdicts were read in the sources
}

// Run is a version of a program that was run, with the verdict of the table.
type Run struct {
	What   string  `json:"what"`
	Kernel string  `json:"kernel,omitempty"` // "": not recorded
	On     []Sight `json:"on"`
	Type   Type    `json:"type"`
	Test   string  `json:"test,omitempty"` // of the integration tests; "": by hand
}

// How returns "run" or "read".
func (c Client) How() string {
	if len(c.Run) > 0 {
		return "run"
	}
	return "read"
}

// WasRun reports that a verdict was observed, with the right type or FUSE's.
func (c Client) WasRun(s Sight, typed bool) bool {
	for _, r := range c.Run {
		for _, on := range r.On {
			if on == s && (r.Type != Fuse) == typed {
				return true
			}
		}
	}
	return false
}

// On returns the client's verdict on a sight.
func (c Client) On(s Sight, typed bool) Verdict {
	if typed {
		return c.Typed[s]
	}
	return c.Verdicts[s]
}

// client makes a client with a verdict for each of Sights, in their order: with FUSE's type, and with the right one.
func client(name string, asks Asks, looks string, plain, typed [6]Verdict) Client {
	c := Client{
		Name: name, Asks: asks, Looks: looks,
		Verdicts: map[Sight]Verdict{V2: Yes, V1: Yes, None: Other}, Typed: map[Sight]Verdict{V2: Yes, V1: Yes, None: Other},
	}
	for i, s := range Sights {
		c.Verdicts[s.Sight], c.Typed[s.Sight] = plain[i], typed[i]
	}
	for _, s := range lentSights {
		c.Verdicts[s.Sight], c.Typed[s.Sight] = Unknown, Unknown
	}
	return c
}

// lent adds the verdicts on a view of v2 on a host with v1, not stacked: with FUSE's type, and with the right one.
func (c Client) lent(plain, typed Verdict) Client {
	c.Verdicts[Lent], c.Typed[Lent] = plain, typed
	return c
}

// stackedLent is lent for one that is stacked.
func (c Client) stackedLent(plain, typed Verdict) Client {
	c.Verdicts[StackedLent], c.Typed[StackedLent] = plain, typed
	return c
}

// Remedy returns what to do where the client does not accept a sight.
func (c Client) Remedy(s Sight) string {
	switch {
	case s != Lent && s != StackedLent:
		return c.Instead
	case c.Typed[s] == Yes:
		return theType
	case c.Typed[s] == Ignores:
		return "the host's own layout, or run --proc: it goes by v1's lines in /proc/self/cgroup"
	}
	return ""
}

// onlyV2 marks a client that does not know v1.
func (c Client) onlyV2() Client {
	c.Verdicts[V1], c.Typed[V1] = No, No
	return c
}

// onlyV1 marks a client that does not know v2.
func (c Client) onlyV1() Client {
	c.Verdicts[V2], c.Typed[V2] = No, No
	return c
}

func (c Client) needs(what string) Client {
	c.Needs = what
	return c
}

func (c Client) instead(what string) Client {
	c.Instead = what
	return c
}

// run adds a version of the client that was run.
func (c Client) run(what, kernel string, of Type, test string, on ...Sight) Client {
	c.Run = append(c.Run[:len(c.Run):len(c.Run)], Run{what, kernel, on, of, test})
	return c
}

// tested adds a version that TestClients runs: on all views of v1, on one of v2 beside v1, and on those of v2 with
// FUSE's type and with the right one.
func (c Client) tested(what string) Client {
	return c.run(what, hybrid, Fuse, clients, append(slices.Clone(sightsV1), Lent)...).
		run(what, onlyV2, Fuse, clients, sightsV2...).
		run(what, onlyV2, ByBPF, clients, sightsV2...)
}
