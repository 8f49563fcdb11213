package cgroups

// Figures are what a guest or one of its cgroups uses now. A figure that none of the hierarchies has is -1; so is a
// limit that is not set.
type Figures struct {
	Processes   int64 // at and below; -1 of FiguresOf, see CountProcesses
	Cgroups     int64 // below; the most of the hierarchies, in a Tree all of them
	CPUUsec     int64 // used since the cgroup was made
	MemoryBytes int64
	MemoryLimit int64
	Pids        int64 // tasks, threads included
	PidsLimit   int64
	Frozen      bool
}

// Cgroup is a cgroup of a guest, in all hierarchies that have it, with the processes that are in it in any of them.
type Cgroup struct {
	Name        string // "/" for the boundary
	Hierarchies []string
	Processes   []Process // by pid
	Figures               // "Processes" is the list above, not the figure
	Children    []Cgroup  // by name
	Cut         bool      // it has more children or processes than are listed
}

// Process is a process of a guest.
type Process struct {
	Pid     int    // by the caller's numbers
	Command string // its name (comm)
}

// Limit is one control file of the boundary to set.
type Limit struct{ File, Value string }

// Change is a control file that Set has changed.
type Change struct {
	Path     string // of the cgroup, "/" for the boundary
	File     string
	From, To string
}

// EventKind says what happened to a guest.
type EventKind int

// The kinds of events.
const (
	OOMKill EventKind = iota
	LimitReached
)

// Event says that something happened to a guest since the sample before.
type Event struct {
	Kind  EventKind
	Path  string // of the cgroup, "/" for the boundary; on v2 that also for what happened below
	Limit string // the control file with the limit
	Count uint64
}
