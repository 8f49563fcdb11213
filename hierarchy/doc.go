// Package hierarchy holds the words and facts of cgroups: controllers, hierarchies, layouts, names, the table of
// control files and the grammars of their values. It does no I/O.
//
// # Words
//
// A hierarchy is one mounted cgroup tree of the host: the v2 hierarchy, a v1 hierarchy with one or more controllers
// ("cpu,cpuacct"), or a v1 hierarchy with a name and no controller ("name=systemd"). A control file is an interface
// file of cgroupfs. Its place is the boundary (the cgroup that a guest sees as root) or below it. A verdict says how
// a guest may use it there.
//
// # What always holds
//
// The table alone decides on a guest's view and writes: policy narrows it, and the documents are printed from it. A
// control file is a row of it, never a type or a case. A name without a row is unknown, and an unknown name is
// hidden.
//
// A value is parsed as by the kernel, except for forms that the kernel accepts by accident: a number that wraps,
// text after a number, no number at all. The parsed value is written in one canonical form.
package hierarchy

// Version is a version of cgroup: 1 or 2.
type Version int

// The versions of cgroup.
const (
	V1 Version = 1
	V2 Version = 2
)

// Place is the position of a control file in a guest's view.
type Place int

// The places.
const (
	Boundary Place = iota // the cgroup that the guest sees as root
	Below                 // any cgroup below that
)

// Verdict says how a guest may use a control file at a place. The zero Verdict is Hidden.
type Verdict int

// The verdicts.
const (
	Hidden    Verdict = iota // not there: ENOENT
	ReadOnly                 // opening it for writing is EPERM
	ReadWrite                // the guest's bytes go to the host untouched
	Guarded                  // read-write within a constraint
)

// String is the verdict's name in policies.
func (v Verdict) String() string {
	switch v {
	case ReadOnly:
		return "read-only"
	case ReadWrite:
		return "read-write"
	case Guarded:
		return "guarded"
	}
	return "hidden"
}
