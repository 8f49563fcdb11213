// Package api is the control interface of the daemon: its wire structs, its server and its client.
//
// The interface is HTTP with JSON over a unix socket. It is an ABI: a field or a route may be added, none may change
// its meaning. This file has every struct on the wire; routes.go and verbs.go have every route and its
// access.
package api

import (
	"time"
)

// DefaultSocket is the daemon's default socket.
const DefaultSocket = "/run/vcgroupfs/serve/api.sock"

// GuestSpec describes a guest: the body of PUT /v1/guests/{name}, and in YAML a file of the guests' directory.
type GuestSpec struct {
	// Boundary is a cgroup path, counted from the root of each hierarchy. Exactly one of Boundary and Pid is set.
	Boundary string `json:"boundary,omitempty" yaml:"boundary,omitempty"`
	// Pid is a process, by the numbers of the daemon's pid namespace. The root of its cgroup namespace is the boundary,
	// and its end is the guest's.
	Pid int `json:"pid,omitempty" yaml:"pid,omitempty"`
	// CurrentCgroup makes the process's present cgroups the boundary. It requires Pid.
	CurrentCgroup bool `json:"currentCgroup,omitempty" yaml:"currentCgroup,omitempty"`
	// OfRuntime has the daemon find what a runtime made for Pid, the first process of a container: the controllers in
	// whose hierarchies Pid has another cgroup than the caller, the runtime's hook, and CurrentCgroup if Pid has no cgroup
	// namespace of its own. The guest's spec has these instead. A daemon of an earlier version refuses the field.
	OfRuntime bool `json:"ofRuntime,omitempty" yaml:"-"`
	// Target is the absolute path of an existing directory to mount at; empty: the daemon makes views/NAME beside its
	// socket.
	Target string `json:"target,omitempty" yaml:"target,omitempty"`
	// Rootfs is the absolute path of the guest's root. Target is then a path from it, and its links are followed inside
	// it.
	Rootfs string `json:"rootfs,omitempty" yaml:"rootfs,omitempty"`
	// Over mounts at Target even over a mount, or over the directory's content.
	Over bool `json:"over,omitempty" yaml:"over,omitempty"`
	// Into also attaches the view in the mount namespace of Pid.
	Into *Into `json:"into,omitempty" yaml:"into,omitempty"`
	// Controllers are the controllers shown; empty: the policy decides.
	Controllers []string `json:"controllers,omitempty" yaml:"controllers,omitempty"`
	// Policy is the policy's YAML text, not its file's name; empty: the default.
	Policy string `json:"policy,omitempty" yaml:"policy,omitempty"`
	// Owner is the host's UID:GID of root in the guest.
	Owner string `json:"owner,omitempty" yaml:"owner,omitempty"`
	// Layout is auto, v1, v2 or hybrid; empty: auto.
	Layout string `json:"layout,omitempty" yaml:"layout,omitempty"`
	// Limits maps control files of the boundary to values, set before the view is mounted.
	Limits map[string]string `json:"limits,omitempty" yaml:"limits,omitempty"`
}

// Into is a mount point in the mount namespace of a guest's process.
type Into struct {
	// Rootfs is the absolute path of the guest's future root, as the process sees it now; empty: the process's root.
	Rootfs string `json:"rootfs,omitempty" yaml:"rootfs,omitempty"`
	// Path is the absolute path of an existing directory, from the guest's root.
	Path string `json:"path" yaml:"path"`
	// Stack keeps the mounts at Path below the view; absent: only a mount of the guest's own cgroups.
	Stack *bool `json:"stack,omitempty" yaml:"stack,omitempty"`
	// Tmpfs makes a tmpfs with a mount for each hierarchy, as on hosts with v1.
	Tmpfs bool `json:"tmpfs,omitempty" yaml:"tmpfs,omitempty"`

	// ProcCgroups mounts a file over /proc/cgroups that lists the controllers shown.
	ProcCgroups bool `json:"procCgroups,omitempty" yaml:"procCgroups,omitempty"`
}

// Guest is a guest of the daemon.
type Guest struct {
	Name        string    `json:"name"`
	Spec        GuestSpec `json:"spec"`
	Hierarchies []string  `json:"hierarchies"` // shown, by their names in the command hierarchies
	// Boundaries are the boundary's cgroups by hierarchy, counted from its root, at the time the guest was added. Empty
	// from a version without the field.
	Boundaries map[string]string `json:"boundaries,omitempty"`
	Since      time.Time         `json:"since"`
	Declared   bool              `json:"declared"` // by a file in the guests' directory
	// Maker made the guest, and no other maker removes it by its name. Empty from a version without makers.
	Maker Maker `json:"maker"`
	Open  int   `json:"open"` // open descriptors of the guest in its view
	// Rule is the pattern of serve --container by which touching self added the guest; empty for any other guest.
	Rule string `json:"rule,omitempty"`
	// Calls are the system calls of its container that a seccomp profile stops for the daemon.
	Calls Calls `json:"calls"`
}

// Calls are system calls that a seccomp profile stops for the daemon.
type Calls struct {
	Listeners uint64 `json:"listeners"` // their present sources; 0: the container has no such profile
	Answered  uint64 `json:"answered"`  // instead of the kernel, since the guest was added
	PassedOn  uint64 `json:"passedOn"`  // to the kernel
}

// Figures are the present usage of a guest or one of its cgroups. A figure that the shown hierarchies do not have is
// -1, and so is an unset limit.
type Figures struct {
	Processes   int64 `json:"processes"` // at and below; -1 if counting would cost too much: top
	Cgroups     int64 `json:"cgroups"`   // below; the maximum over the hierarchies, in a tree their union
	CPUUsec     int64 `json:"cpuUsec"`   // used since the cgroup was made
	MemoryBytes int64 `json:"memoryBytes"`
	MemoryLimit int64 `json:"memoryLimitBytes"`
	Pids        int64 `json:"pids"` // tasks, threads included
	PidsLimit   int64 `json:"pidsLimit"`
	Frozen      bool  `json:"frozen"`
}

// Usage is an element of GET /v1/top.
type Usage struct {
	Name string `json:"name"`
	Figures
	Requests uint64 `json:"requests"` // served since the worker started
	Denials  uint64 `json:"denials"`
}

// Cgroup is a cgroup of a guest as the host sees it: GET /v1/guests/{name}/tree. A cgroup in several hierarchies is one
// Cgroup, with the processes that it has in any of them.
type Cgroup struct {
	Name        string    `json:"name"`        // "/" for the boundary
	Hierarchies []string  `json:"hierarchies"` // that have it
	Processes   []Process `json:"processes"`   // in it, by the daemon's pid numbers
	Figures               // "processes" is the list above, not the figure
	Children    []Cgroup  `json:"children"`
	Cut         bool      `json:"cut,omitempty"` // has unlisted children or processes: a tree is bounded
}

// Process is a process of a guest.
type Process struct {
	Pid     int    `json:"pid"`
	Command string `json:"command"` // its name (comm)
}

// Limit is one control file of the boundary to set: the body of POST /v1/guests/{name}/set is a list of them.
type Limit struct {
	File  string `json:"file"`
	Value string `json:"value"`
}

// Change is a changed control file, in the order of the writes: children first if the kernel requires it.
type Change struct {
	Path string `json:"path"` // of the cgroup, "/" for the boundary
	File string `json:"file"`
	From string `json:"from"`
	To   string `json:"to"`
}

// Kinds of events.
const (
	EventAdded     = "added"
	EventRemoved   = "removed" // asked for
	EventGone      = "gone"    // the boundary was removed or the guest's process ended
	EventDenied    = "denied"
	EventQuota     = "quota"
	EventOOMKill   = "oom-kill"
	EventLimit     = "limit"     // a limit was reached
	EventDropped   = "dropped"   // Count events were lost, because there were too many; no Count: the number is unknown
	EventRestarted = "restarted" // the worker was replaced; Reason tells why
)

// Event is a line of GET /v1/events. Each denial's log line has the same fields.
type Event struct {
	Time      time.Time `json:"time"`
	Kind      string    `json:"kind"`
	Guest     string    `json:"guest,omitempty"`
	UID       uint32    `json:"uid"`           // of the caller, by the host's numbers; unknown without a pid
	Pid       int       `json:"pid,omitempty"` // of the caller's thread, by the daemon's numbers
	Operation string    `json:"operation,omitempty"`
	Path      string    `json:"path,omitempty"` // in the view
	Rule      string    `json:"rule,omitempty"` // the rule that denied
	Reason    string    `json:"reason,omitempty"`
	Count     uint64    `json:"count,omitempty"`
}

// Info is the body of GET /v1/info.
type Info struct {
	Version  string    `json:"version"`
	Pid      int       `json:"pid"`    // of the worker
	Holder   int       `json:"holder"` // pid of the holder
	Since    time.Time `json:"since"`  // the worker's start
	Guests   int       `json:"guests"`
	Restarts uint64    `json:"restarts"`         // of the worker, since the holder started
	Notify   string    `json:"notify,omitempty"` // path of the socket for seccomp listeners; empty without one
	// Resend: the kernel resends unanswered requests (Linux 6.9), so guests do not notice a worker's death.
	Resend bool `json:"resend"`

	TypeByBPF   bool   `json:"typeByBPF"`             // statfs of a view reports the type that it stands for
	TypeRefused string `json:"typeRefused,omitempty"` // the reason against BPF
}

// TypeRequest is the body of PUT /v1/type: statfs must answer for a file system as long as that exists. The caller
// names one of its own descriptors and keeps it open until the answer, so that the file system exists and its device
// number is not reused. The types are trusted: only the host's root may ask, and root could load such programs itself.
// It has no effect on file systems other than FUSE.
type TypeRequest struct {
	FD    int        `json:"fd"`    // of any node of the file system, also one opened by O_PATH
	Types [64]uint32 `json:"types"` // by the uppermost 6 bits of a node's id; 0: unchanged
	// Cgroup is the id of a v2 cgroup. For tasks in and below it clone3 with CLONE_INTO_CGROUP answers ENOSYS, if BPF is a
	// security module.
	Cgroup uint64 `json:"cgroup,omitempty"`
}

// UpgradeRequest is the body of POST /v1/upgrade.
type UpgradeRequest struct {
	Program string `json:"program"` // absolute path of the next program; empty: the path that the daemon was started from
}

// Error is the body of every answer that is not 2xx. The table of package fault lists the codes, and the status of
// each.
type Error struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}
