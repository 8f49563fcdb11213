// Package hierarchy holds the words and facts of cgroups: controllers, hierarchies, layouts, names, the table of control
// files and the grammars of their values. It does no I/O.
//
// # Words
//
// A hierarchy is one mounted cgroup tree of the host: the v2 hierarchy, a v1 hierarchy with one or more controllers ("cpu,cpuacct"),
// or a v1 hierarchy with a name and no controller ("name=systemd"). A control file is an interface file of cgroupfs. Its place
// is the boundary (the cgroup that a guest sees as root) or below it. A verdict says what a guest may do with it there.
//
// # What always holds
//
// The table is the one source for what a guest may see and write: policy narrows it, the documents are printed from it.
// A control file is a row of it, never a type or a case. A name that no row covers is unknown, and unknown is hidden.
//
// Values are parsed as the kernel would, but for what it takes and nobody means: a number that wraps, text behind a
// number, no number at all. What was parsed is written in one canonical form.
package hierarchy

// Version is a version of cgroup: 1 or 2.
type Version int

// The versions of cgroup.
const (
	V1 Version = 1
	V2 Version = 2
)

// Place is where in a guest's tree a control file stands.
type Place int

// The places.
const (
	Boundary Place = iota // the cgroup that the guest sees as root
	Below                 // any cgroup below that
)

// Verdict is what a guest may do with a control file at a place. The zero Verdict is Hidden.
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
