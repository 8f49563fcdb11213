package state

import (
	"sync/atomic"
	"unsafe"
)

// Answers counts what became of a guest's system calls that seccomp stopped for the daemon. Another process than the
// worker changes it, atomically. Its place is zero in the arenas of programs that do not know it, and they leave it
// alone, so it does not change layoutVersion.
type Answers struct {
	Listeners uint64 // now
	Answered  uint64 // calls that were answered instead of the kernel
	PassedOn  uint64 // calls that the kernel was let do
}

// Answers is the guest's.
func (r *Region) Answers() *Answers { return (*Answers)(unsafe.Pointer(&r.mem[answersBase])) }

// Load is a copy.
func (x *Answers) Load() Answers {
	return Answers{atomic.LoadUint64(&x.Listeners), atomic.LoadUint64(&x.Answered), atomic.LoadUint64(&x.PassedOn)}
}

// Sight is a guest as another process than its server sees it: a region, and the file system that the guest's view is.
type Sight struct {
	Index  int
	Device uint64
}

// Sights are the guests that are set up, in the order of their regions, behind those in all.
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

// Sees says whether a guest is still there.
func (a *Arena) Sees(s Sight) bool {
	return atomic.LoadUint32(a.stage(s.Index)) == stageLive && a.glance(s.Index).Device() == s.Device
}

// Glance is a guest's region, for its configuration and its Answers alone. What it says holds if Sees does afterwards.
func (a *Arena) Glance(s Sight) *Region { return a.glance(s.Index) }

// glance is a region without what only its server needs.
func (a *Arena) glance(i int) *Region {
	mem := a.slice(i)
	return &Region{arena: a, index: i, mem: mem, head: (*regionHead)(unsafe.Pointer(&mem[0]))}
}
