package fs

import "sync"

// memo remembers what the server has read of cgroups, by kernfs id, which the kernel never reuses. Only this server
// changes what is remembered, by set; what a reader found before a change is not remembered after it.
type memo[T any] struct {
	mu      sync.Mutex
	of      map[uint64]T // guarded by mu; nil before its first use
	changes uint64       // guarded by mu
}

// maxMemo bounds what is remembered.
const maxMemo = 4096

// get returns what is remembered of a cgroup, or what read finds.
func (m *memo[T]) get(id uint64, read func() (T, error)) (T, error) {
	m.mu.Lock()
	x, ok := m.of[id]
	before := m.changes
	m.mu.Unlock()
	if ok {
		return x, nil
	}
	x, err := read()
	if err != nil {
		return x, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.changes == before {
		m.put(id, x)
	}
	return x, nil
}

// put is called with mu held.
func (m *memo[T]) put(id uint64, x T) {
	if m.of == nil || len(m.of) >= maxMemo {
		m.of = map[uint64]T{}
	}
	m.of[id] = x
}

// set remembers a change.
func (m *memo[T]) set(id uint64, x T) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.changes++
	m.put(id, x)
}

// forget drops what is remembered of a cgroup.
func (m *memo[T]) forget(id uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.changes++
	delete(m.of, id)
}
