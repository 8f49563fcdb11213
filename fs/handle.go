package fs

import (
	"sync"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/policy"
)

// handle is one open of a control file or directory by the guest. It carries the authority settled at open (rule 4): a
// host descriptor with the access that was granted, the verdict, and who opened.
type handle struct {
	tree     *tree           // immutable; nil for the top directory
	dir      uint64          // immutable: kernfs id of the directory
	file     string          // immutable; "" for a directory
	decision policy.Decision // immutable
	fd       int             // immutable: host descriptor of a control file, -1 where nothing of the open comes here
	opener   credentials     // immutable
	reads    bool            // immutable: opened for reading only
	backing  *backing        // immutable: not nil when the kernel reads the host's file itself, or does for others

	mu      sync.Mutex
	content []byte     // guarded by mu: what a filtered read at offset 0 made, for the reads that follow
	entries []dirEntry // guarded by mu: a directory's listing, made at offset 0
	trigger bool       // guarded by mu: the descriptor carries a PSI trigger
	kh      uint64     // guarded by mu: what the poller knows it by, 0 before the first poll
}

// credentials are who opened a file, in the host's ids.
type credentials struct {
	uid, gid uint32
	tid      int
	admin    bool // CAP_SYS_ADMIN over the host; looked up only where a verdict needs it
}

// handleTable maps FUSE file handles to opens.
type handleTable struct {
	mu   sync.RWMutex
	open map[uint64]*handle // guarded by mu
	next uint64             // guarded by mu
}

func (t *handleTable) init() { t.open = map[uint64]*handle{} }

func (t *handleTable) add(h *handle) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.next++
	t.open[t.next] = h
	return t.next
}

func (t *handleTable) get(fh uint64) *handle {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.open[fh]
}

func (t *handleTable) remove(fh uint64) *handle {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.open[fh]
	delete(t.open, fh)
	return h
}

// closeAll closes every host descriptor; the connection is over.
func (t *handleTable) closeAll() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for fh, h := range t.open {
		if h.fd >= 0 {
			unix.Close(h.fd)
		}
		delete(t.open, fh)
	}
}

// callerOf is the pid namespace of a request's caller.
func (v *View) callerOf(tid uint32) (*host.PidNamespace, error) {
	if tid == 0 {
		return nil, unix.ESRCH // not visible in the server's pid namespace
	}
	return v.host.PidNamespaceOf(int(tid))
}
