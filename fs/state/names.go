package state

import (
	"sync"
	"sync/atomic"
	"unsafe"
)

// nameTable numbers the names of control files from 1 up; a number never changes. It only grows: names come from the
// host's directories, never from a guest.
type nameTable struct {
	arena *Arena

	mu     sync.RWMutex
	byName map[string]uint64 // guarded by mu
	list   []string          // guarded by mu; list[n-1] has number n
}

// storedName is a name in the arena.
type storedName struct {
	size uint8
	text [nameSize - 1]byte
}

func (t *nameTable) init(a *Arena) {
	t.arena, t.byName = a, map[string]uint64{}
	n := min(atomic.LoadUint32(&a.head().names), maxNames)
	for i := range n {
		s := a.storedName(int(i))
		name := string(s.text[:s.size])
		t.list = append(t.list, name)
		t.byName[name] = uint64(i + 1)
	}
}

func (a *Arena) storedName(i int) *storedName {
	return (*storedName)(unsafe.Pointer(&a.mem[namesOffset+i*nameSize]))
}

// NameNumber finds or makes the number of a control file's name; 0 if the table is full or the name too long.
func (a *Arena) NameNumber(name string) uint64 {
	t := &a.names
	t.mu.RLock()
	n, ok := t.byName[name]
	t.mu.RUnlock()
	if ok {
		return n
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if n, ok := t.byName[name]; ok {
		return n
	}
	if len(t.list) >= maxNames || len(name) >= nameSize {
		return 0
	}
	s := a.storedName(len(t.list))
	copy(s.text[:], name)
	s.size = uint8(len(name))
	t.list = append(t.list, name)
	n = uint64(len(t.list))
	atomic.StoreUint32(&a.head().names, uint32(n))
	t.byName[name] = n
	return n
}

// Name returns the name with a number; false for a number without one.
func (a *Arena) Name(n uint64) (string, bool) {
	t := &a.names
	t.mu.RLock()
	defer t.mu.RUnlock()
	if n == 0 || n > uint64(len(t.list)) {
		return "", false
	}
	return t.list[n-1], true
}

// Names returns all names with a number. The caller must not change them.
func (a *Arena) Names() []string {
	t := &a.names
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.list[:len(t.list):len(t.list)]
}
