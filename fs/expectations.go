package fs

import (
	"sync"
)

// expectations are changes that the server itself is about to make in host directories: its watch will report them, and
// the guest's kernel knows them already.
type expectations struct {
	mu   sync.Mutex
	want map[expectation]int // guarded by mu
}

type expectation struct {
	dir  uint64
	name string
}

// maxExpected bounds what is waited for when reports do not come (a directory that is not watched). One that is forgotten
// only means that the guest's kernel is told what it knows.
const maxExpected = 64

func (e *expectations) add(dir uint64, name string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.want == nil || len(e.want) >= maxExpected {
		e.want = map[expectation]int{}
	}
	e.want[expectation{dir, name}]++
}

// take says whether a change was expected, and expects it once less.
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
		e.want = nil // an idle guest holds nothing
	}
	return true
}
