// Package state keeps the knowledge of a server that the next one could not recover, in memory that it shares with
// the next one: a mapped memfd.
//
// # Words
//
//   - Arena: the whole memory, for a bounded number of guests. Region: the part of one guest.
//   - Handle: an open of the guest's, one slot each. Entry: a change that a request is making on the host
//     (journal.go).
//   - Record: a Handle, Entry or other unit of the layout. Its mark is the atomic word that makes it valid.
//
// # What always holds
//
//   - kill -9 loses no stored data: the pages belong to the memfd. A record is stored before its mark (FH, Unique,
//     the region's stage, the number of names), so a server that dies in between leaves an absent record.
//   - One process at a time changes an arena: the worker. Other processes that map it only read.
//   - The layout is an ABI between two versions of the program: layoutVersion numbers it, and Map refuses another.
//
// Locks: each type's mu is a leaf, but Region.mu is taken under Arena.mu where a region is released.
package state

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	magic         = 0x7663_6772_6f75_7066 // "vcgroupf"
	layoutVersion = 1

	pageSize    = 4096
	namesOffset = pageSize
	maxNames    = 1023 // the room in a node id
	nameSize    = 256
	stagesBase  = 368 << 10 // stages of all regions, so that finding those in use touches no region
	regionsBase = 512 << 10

	// MaxConfig is the longest configuration of one guest, in bytes.
	MaxConfig    = 128<<10 - headSize
	recordsBase  = 128 << 10 // in a region: journal, backings, watched files
	handlesBase  = recordsBase + pageSize
	handleSize   = int(unsafe.Sizeof(Handle{}))
	maxSlots     = 1 << slotBits
	slotBits     = 16
	maxGuestsMax = 1 << 15
)

// arenaHead is the first page.
type arenaHead struct {
	magic     uint64
	version   uint32
	guests    uint32 // regions
	handles   uint32 // slots of a region
	names     uint32 // atomic; number of names
	heartbeat uint64 // atomic; when the worker last said that it is alive, in ns
	life      Lifeline
}

// Arena is the memory of one server. Its methods may be called from any goroutine.
type Arena struct {
	file *os.File
	mem  []byte
	size int // of a region

	bound atomic.Int64 // on the opens of all regions together, 0 for none
	open  atomic.Int64 // opens of all regions, where there is a bound

	mu   sync.Mutex
	used []bool // guarded by mu; regions

	names nameTable
}

// Bound bounds the opens of all guests together, for this process: a guest may have as many as are left. So a single
// guest gets half of the bound, and n guests get equal parts of it, with another part left. Call it before any
// region is used.
func (a *Arena) Bound(opens int) {
	total := 0
	for _, r := range a.Regions() {
		total += r.open
	}
	a.open.Store(int64(total))
	a.bound.Store(int64(max(opens, 1)))
}

// leastOpens is the number of opens that every guest may have.
const leastOpens = 4

// admits reports that a guest with so many opens may have one more.
func (a *Arena) admits(open int) bool {
	bound := a.bound.Load()
	return bound == 0 || open < leastOpens || int64(open) < bound-a.open.Load()
}

func regionSize(handles int) int {
	return (handlesBase + handles*handleSize + pageSize - 1) / pageSize * pageSize
}

// New makes an arena for a number of guests, each with at most that many open files and directories. EINVAL for
// numbers out of bounds (1 to 32768, 1 to 65536), else as memfd_create, ftruncate and mmap fail.
func New(guests, handles int) (*Arena, error) {
	if guests < 1 || guests > maxGuestsMax || handles < 1 || handles > maxSlots {
		return nil, fmt.Errorf("cannot make room for %d guests with %d open files each: %w", guests, handles, unix.EINVAL)
	}
	fd, err := unix.MemfdCreate("vcgroupfs", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	file := os.NewFile(uintptr(fd), "arena")
	if err := file.Truncate(int64(regionsBase + guests*regionSize(handles))); err != nil {
		file.Close()
		return nil, err
	}
	a, err := mapFile(file)
	if err != nil {
		file.Close()
		return nil, err
	}
	h := a.head()
	h.version, h.guests, h.handles = layoutVersion, uint32(guests), uint32(handles)
	atomic.StoreUint64(&h.magic, magic)
	a.prepare()
	return a, nil
}

// Map maps the arena of an earlier server and takes over the file. The error says that the file is no arena or has
// another layout.
func Map(file *os.File) (*Arena, error) {
	a, err := mapFile(file)
	if err != nil {
		return nil, err
	}
	h := a.head()
	switch {
	case atomic.LoadUint64(&h.magic) != magic:
		err = errors.New("cannot use the arena: the file is not an arena")
	case h.version != layoutVersion:
		err = fmt.Errorf("cannot use the arena: its layout is %d, this program's is %d; end the daemon and start it anew",
			h.version, layoutVersion)
	case h.guests < 1 || h.guests > maxGuestsMax || h.handles < 1 || h.handles > maxSlots ||
		len(a.mem) != regionsBase+int(h.guests)*regionSize(int(h.handles)):
		err = errors.New("cannot use the arena: its sizes do not fit each other")
	}
	if err != nil {
		unix.Munmap(a.mem)
		return nil, err
	}
	a.prepare()
	return a, nil
}

func mapFile(file *os.File) (*Arena, error) {
	st, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if st.Size() < regionsBase {
		return nil, errors.New("cannot use the arena: the file is too short")
	}
	const flags = unix.MAP_SHARED | unix.MAP_NORESERVE
	mem, err := unix.Mmap(int(file.Fd()), 0, int(st.Size()), unix.PROT_READ|unix.PROT_WRITE, flags)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	return &Arena{file: file, mem: mem}, nil
}

// prepare fills in the derived fields.
func (a *Arena) prepare() {
	h := a.head()
	a.size = regionSize(int(h.handles))
	a.used = make([]bool, h.guests)
	for i := range a.used {
		a.used[i] = atomic.LoadUint32(a.stage(i)) != stageFree
	}
	a.names.init(a)
}

func (a *Arena) head() *arenaHead { return (*arenaHead)(unsafe.Pointer(&a.mem[0])) }

// File returns the arena's memfd. It remains the arena's.
func (a *Arena) File() *os.File { return a.file }

// Close unmaps the arena and closes the file. The arena must not be used afterwards; the memory lives on while
// another process has the file.
func (a *Arena) Close() error {
	err := unix.Munmap(a.mem)
	return errors.Join(err, a.file.Close())
}

// Beat signals that the worker is alive.
func (a *Arena) Beat() { atomic.StoreUint64(&a.head().heartbeat, uint64(max(monotonic(), 1))) }

// Heartbeat changes as long as the worker is alive. age is the time since the last beat; a beat of an earlier version,
// which counted them, is as old as the host.
func (a *Arena) Heartbeat() (beat uint64, age time.Duration) {
	beat = atomic.LoadUint64(&a.head().heartbeat)
	return beat, time.Duration(monotonic() - int64(beat))
}

// monotonic returns the time since the host booted, without the time that it was suspended: the same for all processes.
func monotonic() int64 {
	var t unix.Timespec
	// Fails for an unknown clock only. Without the runtime's knowledge: that would wake its monitor for each heartbeat.
	unix.RawSyscall(unix.SYS_CLOCK_GETTIME, unix.CLOCK_MONOTONIC, uintptr(unsafe.Pointer(&t)), 0)
	return t.Nano()
}

// Guests returns the number of guests that the arena has room for.
func (a *Arena) Guests() int { return int(a.head().guests) }

// Handles returns the number of files and directories that a guest can have open.
func (a *Arena) Handles() int { return int(a.head().handles) }

// Regions lists the regions in use.
func (a *Arena) Regions() []*Region {
	a.mu.Lock()
	defer a.mu.Unlock()
	var all []*Region
	for i := range a.used {
		if atomic.LoadUint32(a.stage(i)) != stageFree {
			all = append(all, a.region(i))
		}
	}
	return all
}

// Allocate gives a free region with this configuration to a guest; it is not set up until MarkSetUp. ENOSPC if none is
// free, E2BIG for a configuration over MaxConfig.
func (a *Arena) Allocate(config []byte) (*Region, error) {
	if len(config) > MaxConfig {
		return nil, fmt.Errorf("cannot keep %d bytes of configuration, at most %d: %w", len(config), MaxConfig, unix.E2BIG)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for i, used := range a.used {
		if used {
			continue
		}
		a.used[i] = true
		r := a.region(i)
		r.setConfig(config)
		atomic.StoreUint32(a.stage(i), stageMaking)
		return r, nil
	}
	return nil, fmt.Errorf("cannot add a guest to the %d that exist: %w", len(a.used), unix.ENOSPC)
}

// release frees a region's memory.
func (a *Arena) release(r *Region) {
	a.mu.Lock()
	defer a.mu.Unlock()
	atomic.StoreUint32(a.stage(r.index), stageFree)
	// MADV_REMOVE: the pages of the memfd are freed, and read as zero.
	if unix.Madvise(a.slice(r.index), unix.MADV_REMOVE) != nil {
		clear(a.slice(r.index))
	}
	a.used[r.index] = false
	r.mu.Lock()
	defer r.mu.Unlock()
	a.open.Add(-int64(r.open))
	r.open = 0
}

func (a *Arena) slice(i int) []byte {
	at := regionsBase + i*a.size
	return a.mem[at : at+a.size : at+a.size]
}

// stage is the mark of a region.
func (a *Arena) stage(i int) *uint32 { return (*uint32)(unsafe.Pointer(&a.mem[stagesBase+4*i])) }
