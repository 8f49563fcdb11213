// Package api is the control interface of the daemon: its wire structs, its server and its client.
//
// The interface is HTTP with JSON over a unix socket, and an ABI: a field or a route may be added, none may change its
// meaning. This file has every struct that goes over the wire; routes.go has every route and who may use it.
package api

import (
	"time"

	"github.com/vcgroupfs/vcgroupfs/fs"
)

// DefaultSocket is where the daemon listens when nobody says otherwise.
const DefaultSocket = "/run/vcgroupfs/serve/api.sock"

// GuestSpec says what a guest is: the body of PUT /v1/guests/{name}, and in YAML a file of the guests' directory.
type GuestSpec struct {
	Boundary      string            `json:"boundary,omitempty" yaml:"boundary,omitempty"`           // cgroup path from the root of each hierarchy; this or Pid
	Pid           int               `json:"pid,omitempty" yaml:"pid,omitempty"`                     // a process, by the daemon's pid namespace: the root of its cgroup namespace is the boundary, its end is the guest's
	CurrentCgroup bool              `json:"currentCgroup,omitempty" yaml:"currentCgroup,omitempty"` // with Pid: the cgroups that it is in now are the boundary
	Target        string            `json:"target,omitempty" yaml:"target,omitempty"`               // absolute path of an existing directory to mount at; empty: one that the daemon makes, views/NAME beside its socket
	Rootfs        string            `json:"rootfs,omitempty" yaml:"rootfs,omitempty"`               // absolute path of the guest's root: Target is then a path from it, and its links are followed inside it
	Over          bool              `json:"over,omitempty" yaml:"over,omitempty"`                   // mount at Target also over what is mounted there, or in the directory
	Into          *Into             `json:"into,omitempty" yaml:"into,omitempty"`                   // attach the view in the mount namespace of Pid, too
	Controllers   []string          `json:"controllers,omitempty" yaml:"controllers,omitempty"`     // shown; empty: as the policy says
	Policy        string            `json:"policy,omitempty" yaml:"policy,omitempty"`               // the policy's YAML text, not its file's name; empty: the default
	Owner         string            `json:"owner,omitempty" yaml:"owner,omitempty"`                 // UID:GID of the host that are root in the guest
	Layout        string            `json:"layout,omitempty" yaml:"layout,omitempty"`               // auto, v1, v2, hybrid; empty: auto
	Limits        map[string]string `json:"limits,omitempty" yaml:"limits,omitempty"`               // control file of the boundary: value, set before the view is mounted
}

// Into is a place in the mount namespace of a guest's process.
type Into struct {
	Rootfs string `json:"rootfs,omitempty" yaml:"rootfs,omitempty"` // absolute path of what will be the guest's root, as the process sees it now; empty: its root
	Path   string `json:"path" yaml:"path"`                         // absolute path of an existing directory, from the guest's root
	Stack  *bool  `json:"stack,omitempty" yaml:"stack,omitempty"`   // what is mounted there stays below the view; absent: where it is a mount of the guest's own cgroups
	Tmpfs  bool   `json:"tmpfs,omitempty" yaml:"tmpfs,omitempty"`   // a tmpfs with a mount for each hierarchy, as hosts with v1 have it

	ProcCgroups bool `json:"procCgroups,omitempty" yaml:"procCgroups,omitempty"` // a file over /proc/cgroups that names the controllers shown
}

// Guest is a guest as the daemon has it.
type Guest struct {
	Name        string    `json:"name"`
	Spec        GuestSpec `json:"spec"`
	Hierarchies []string  `json:"hierarchies"` // shown, as the command hierarchies names them
	// Boundaries are the boundary's cgroups by hierarchy, counted from its root, when the guest was made; none from a version that does
	// not say them.
	Boundaries map[string]string `json:"boundaries,omitempty"`
	Since      time.Time         `json:"since"`
	Declared   bool              `json:"declared"`       // by a file of the guests' directory
	Maker      Maker             `json:"maker"`          // who made it, and alone removes it by its name; none from a version without makers
	Open       int               `json:"open"`           // descriptors that the guest has open in its view
	Rule       string            `json:"rule,omitempty"` // the pattern of serve --container by which it was made when it touched self; none for any other guest
	Calls      Calls             `json:"calls"`          // system calls of its container that a seccomp profile stops for the daemon
}

// Calls are system calls that a seccomp profile stops for the daemon.
type Calls struct {
	Listeners uint64 `json:"listeners"` // by which they come, now; 0: the container has no such profile
	Answered  uint64 `json:"answered"`  // instead of the kernel, since the guest was added
	PassedOn  uint64 `json:"passedOn"`  // to the kernel
}

// Figures are what a guest or one of its cgroups uses now. A figure that the shown hierarchies do not have is -1; so is a
// limit that is not set.
type Figures struct {
	Processes   int64 `json:"processes"` // at and below; -1 where counting them would cost too much: top
	Cgroups     int64 `json:"cgroups"`   // below; of several hierarchies the one that has the most, in a tree all of them
	CPUUsec     int64 `json:"cpuUsec"`   // used since the cgroup was made
	MemoryBytes int64 `json:"memoryBytes"`
	MemoryLimit int64 `json:"memoryLimitBytes"`
	Pids        int64 `json:"pids"` // tasks, threads included
	PidsLimit   int64 `json:"pidsLimit"`
	Frozen      bool  `json:"frozen"`
}

// Usage is a line of GET /v1/top.
type Usage struct {
	Name string `json:"name"`
	Figures
	Requests uint64 `json:"requests"` // served since the worker started
	Denials  uint64 `json:"denials"`
}

// Cgroup is a cgroup of a guest as the host sees it: GET /v1/guests/{name}/tree. A cgroup that is in several hierarchies
// is one Cgroup, with the processes that are in it in any of them.
type Cgroup struct {
	Name        string    `json:"name"`        // "/" for the boundary
	Hierarchies []string  `json:"hierarchies"` // that have it
	Processes   []Process `json:"processes"`   // in it, by the daemon's pid numbers
	Figures               // "processes" is the list above, not the figure
	Children    []Cgroup  `json:"children"`
	Cut         bool      `json:"cut,omitempty"` // it has more children or processes than are listed: a tree is bounded
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

// Change is a control file that a set has changed, in the order of the writes: children first where the kernel asks for it.
type Change struct {
	Path string `json:"path"` // of the cgroup, "/" for the boundary
	File string `json:"file"`
	From string `json:"from"`
	To   string `json:"to"`
}

// The kinds of events.
const (
	EventAdded     = "added"
	EventRemoved   = "removed" // asked for
	EventGone      = "gone"    // the boundary vanished or the init ended
	EventDenied    = "denied"
	EventQuota     = "quota"
	EventOOMKill   = "oom-kill"
	EventLimit     = "limit"     // a limit was reached
	EventDropped   = "dropped"   // Count events were not told of, for there were too many; no Count: nobody knows how many
	EventRestarted = "restarted" // the worker was replaced; Reason says why
)

// Event is a line of GET /v1/events, and each denial's log line has the same fields.
type Event struct {
	Time      time.Time `json:"time"`
	Kind      string    `json:"kind"`
	Guest     string    `json:"guest,omitempty"`
	UID       uint32    `json:"uid"`           // of the caller, by the host's numbers; nobody's where there is no pid
	Pid       int       `json:"pid,omitempty"` // of the caller's thread, by the daemon's numbers
	Operation string    `json:"operation,omitempty"`
	Path      string    `json:"path,omitempty"` // in the view
	Rule      string    `json:"rule,omitempty"` // which rule denied
	Reason    string    `json:"reason,omitempty"`
	Count     uint64    `json:"count,omitempty"`
}

// Info is GET /v1/info.
type Info struct {
	Version  string    `json:"version"`
	Pid      int       `json:"pid"`    // of the worker
	Holder   int       `json:"holder"` // pid of the holder
	Since    time.Time `json:"since"`  // the worker's start
	Guests   int       `json:"guests"`
	Restarts uint64    `json:"restarts"`         // of the worker, since the holder started
	Notify   string    `json:"notify,omitempty"` // path of the socket that takes seccomp listeners; none where there is no such socket
	Resend   bool      `json:"resend"`           // the kernel resends unanswered requests (Linux 6.9): a worker's death is not felt

	TypeByBPF   bool   `json:"typeByBPF"`             // statfs of a view says the type that it stands for
	TypeRefused string `json:"typeRefused,omitempty"` // why not by BPF
}

// TypeRequest is the body of PUT /v1/type: statfs is to answer for a file system, until that is gone. The caller names a descriptor of
// its own and keeps it open until it has the answer, so that the file system is there and its number no other's. What it says of the types
// is believed: only the host's root may ask, who could load such programs itself. For other file systems than FUSE it has no effect.
type TypeRequest struct {
	FD    int      `json:"fd"`    // of any node of the file system, also one opened by O_PATH
	Types fs.Types `json:"types"` // by the uppermost 6 bits of a node's id; 0: as it is
	// Cgroup is the id of a v2 cgroup: to tasks in and below it clone3 with CLONE_INTO_CGROUP answers ENOSYS, where BPF is a security module.
	Cgroup uint64 `json:"cgroup,omitempty"`
}

// UpgradeRequest is the body of POST /v1/upgrade.
type UpgradeRequest struct {
	Program string `json:"program"` // absolute path of the program to go on with; empty: the one that the daemon was started as
}

// Error is the body of every answer that is not 2xx. The codes, and the status of each, are in the table of package
// fault.
type Error struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}
