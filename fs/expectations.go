package fs

import (
	"sync"
)

// expectations are the changes that the server is about to make in host directories. The watch will report them, and
// the guest's kernel already knows them.
type expectations struct {
	mu   sync.Mutex
	want map[expectation]int // guarded by mu
}

type expectation struct {
	dir  uint64
	name string
}

// maxExpected bounds the expectations whose reports never come (a directory without a watch). Forgetting one only
// makes the server tell the guest's kernel again.
const maxExpected = 64

func (e *expectations) add(dir uint64, name string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.want == nil || len(e.want) >= maxExpected {
		e.want = map[expectation]int{}
	}
	e.want[expectation{dir, name}]++
}

// remove reports that a change was expected, and removes the expectation.
func (e *expectations) remove(dir uint64, name string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	k := expectation{dir, name}
	n := e.want[k]
	if n == 0 {
		return false
	}
	switch {
	case n > 1:
		e.want[k] = n - 1
	case len(e.want) > 1:
		delete(e.want, k)
	default:
		// An idle guest holds no memory.
		e.want = nil
	}
	return true
}
