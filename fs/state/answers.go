package state

import (
	"sync/atomic"
	"unsafe"
)

// Answers counts the results of a guest's system calls that seccomp stopped for the daemon. Another process than the
// worker changes it, atomically. Arenas of programs without it have zeros there and leave them alone, so it does not
// change layoutVersion.
type Answers struct {
	Listeners uint64 // now
	Answered  uint64 // calls answered by the daemon
	PassedOn  uint64 // calls continued in the kernel
}

// Answers returns the guest's counts.
func (r *Region) Answers() *Answers { return (*Answers)(unsafe.Pointer(&r.mem[answersBase])) }

// LoadAnswers returns a copy of the guest's counts.
func (r *Region) LoadAnswers() (x Answers) {
	peek(r, answersBase, &x)
	return x
}

// Sight is a guest as seen by a process other than its server: a region, and the file system of the guest's view.
type Sight struct {
	Index  int
	Device uint64
}

// Sights appends the complete guests to all, in the order of their regions.
func (a *Arena) Sights(all []Sight) []Sight {
	for i := range a.Guests() {
		if atomic.LoadUint32(a.stage(i)) != stageLive {
			continue
		}
		if d := a.glance(i).Device(); d != 0 {
			all = append(all, Sight{i, d})
		}
	}
	return all
}

// Sees reports that a guest still exists.
func (a *Arena) Sees(s Sight) bool {
	return atomic.LoadUint32(a.stage(s.Index)) == stageLive && a.glance(s.Index).Device() == s.Device
}

// Glance returns a guest's region, for its configuration and its Answers alone. The content is valid if Sees reports
// true afterwards.
func (a *Arena) Glance(s Sight) *Region { return a.glance(s.Index) }

// glance returns a region without the parts for its server.
func (a *Arena) glance(i int) *Region {
	mem := a.slice(i)
	return &Region{arena: a, index: i, mem: mem, head: (*regionHead)(unsafe.Pointer(&mem[0]))}
}
