package hierarchy

// Constraint names the rule for a write to a guarded control file. Package fs enforces it.
type Constraint int

// The constraints.
const (
	Unconstrained Constraint = iota
	Members                  // a task of the guest moves within the boundary
	Subtree                  // permitted controllers only
	Trigger                  // PSI triggers as an unprivileged opener may have them
	Reclaim                  // one reclaim at a time, its argument parsed
	PerOpen                  // a reset that concerns the open file only
	Fake                     // kept by the view, never passed to the host
	PriorityClass            // I/O priority classes that do not raise a priority
	DeviceRule               // one rule, of an opener with CAP_SYS_ADMIN over the host
	Canonical                // parsed and written in canonical form: the kernel holds it against parent and children
	Action                   // one at a time
	Unchanged                // the file's present value only
	ByPolicy                 // the policy's own check
)

// Filter names the view's change to a control file's content before the guest reads it.
type Filter int

// The filters.
const (
	Raw               Filter = iota // the host's bytes
	FilterControllers               // permitted controllers only
	FilterMembers                   // pids in the reader's namespace
	FilterStat                      // cgroup.stat without hidden controllers
	FilterMemoryStat                // v1 memory.stat with limits from the boundary down
	FilterFake                      // the view's own value
)

// ControlFile is a row of the table: a control file, or with '*' in its name many of one kind.
type ControlFile struct {
	Version    Version
	Controller string // "" for files that every cgroup has
	Name       string
	Mode       uint32 // as the kernel shows it
	Class      string // limit, weight, protection, stat, config, action, structure, membership, event
	Grammar    Grammar
	Exists     string // where and since when the file is there; "" for every cgroup
	Nests      string // how ancestors bound it, "" if they cannot
	Boundary   Verdict
	Below      Verdict
	Constraint Constraint
	Filter     Filter
	Pollable   bool // the kernel notifies poll and inotify of its changes
	PerOpen    bool // the host's file keeps state for each open
	Blocks     bool // a write can take long
	Hides      bool // a write shows or hides files beside it
	Threads    bool // a write refused next to the root's processes in the leaf is repeated without them there
	Reason     string
}

// RootOnly reports that the file exists only in the root cgroup of the host, never in a guest.
func (f ControlFile) RootOnly() bool { return f.Exists == rootOnly }

const rootOnly = "root only"
