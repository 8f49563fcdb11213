package cgroups

// Figures are the present usage of a guest or one of its cgroups. A figure that no hierarchy has is -1, and so is an
// unset limit.
type Figures struct {
	Processes   int64 // at and below; -1 from FiguresOf, see CountProcesses
	Cgroups     int64 // below; the maximum over the hierarchies, in a Tree their union
	CPUUsec     int64 // used since the cgroup was made
	MemoryBytes int64
	MemoryLimit int64
	Pids        int64 // tasks, threads included
	PidsLimit   int64
	Frozen      bool
}

// Cgroup is a cgroup of a guest, merged from all hierarchies that have it, with the processes that it has in any of
// them.
type Cgroup struct {
	Name        string // "/" for the boundary
	Hierarchies []string
	Processes   []Process // by pid
	Figures               // "Processes" is the list above, not the figure
	Children    []Cgroup  // by name
	Cut         bool      // has unlisted children or processes
}

// Process is a process of a guest.
type Process struct {
	Pid     int    // by the caller's numbers
	Command string // its name (comm)
}

// Limit is one control file of the boundary to set.
type Limit struct{ File, Value string }

// Change is a change by Set to a control file.
type Change struct {
	Path     string // of the cgroup, "/" for the boundary
	File     string
	From, To string
}

// EventKind classifies an event of a guest.
type EventKind int

// Kinds of events.
const (
	OOMKill EventKind = iota
	LimitReached
)

// Event is an event of a guest since the previous sample.
type Event struct {
	Kind EventKind
	// Path is the cgroup's, "/" for the boundary; on v2 the boundary also stands for cgroups below.
	Path  string
	Limit string // the control file with the limit
	Count uint64
}
