package fs

import (
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/fs/state"
	"github.com/vcgroupfs/vcgroupfs/policy"
)

// handle is one open of a control file or directory by the guest. It carries the authority settled at open (rule 4): a
// host descriptor with the access that was granted, the verdict, and who opened.
type handle struct {
	fh       uint64          // immutable once it is in the table
	hier     *viewHierarchy  // immutable; nil for the top directory
	dir      uint64          // immutable: kernfs id of the directory
	file     string          // immutable; "" for a directory
	life     uint64          // immutable: of the file
	decision policy.Decision // immutable
	opener   credentials     // immutable
	reads    bool            // immutable: opened for reading only
	flags    int             // immutable: for the host's open
	backing  *backing        // immutable: not nil when the kernel reads the host's file itself, or does for others
	inode    uint64          // immutable: of the host's file, 0 where nothing of the open comes here
	counted  uint32          // immutable: state.Stranger where the open is counted as a stranger's

	fired atomic.Uint32 // what a PSI trigger has told the poller, and the guest not yet

	mu      sync.Mutex
	fd      int        // guarded by mu: host descriptor of a control file, -1 where there is none (yet, after a restart)
	pos     int64      // guarded by mu: the descriptor's position, which each write moves on
	leaf    int        // guarded by mu: descriptor of the leaf's file of the same name, -1 before its first use
	leafPos int64      // guarded by mu: its position
	content []byte     // guarded by mu: what a filtered read at offset 0 made, for the reads that follow
	entries []dirEntry // guarded by mu: a directory's listing, made at offset 0
	trigger bool       // guarded by mu: the descriptor carries a PSI trigger
	rest    rest       // guarded by mu: what is yet to come of a write in parts
	held    bool       // guarded by mu: the holder has the descriptor too
	kh      uint64     // guarded by mu: what the kernel's polls know it by, 0 before the first poll
}

// credentials are who opened a file, in the host's ids.
type credentials struct {
	uid, gid uint32
	tid      int  // 0 after a restart
	admin    bool // CAP_SYS_ADMIN over the host; looked up only where a verdict needs it
}

// handleTable maps FUSE file handles to opens. Each open is kept in the state too, for the next server.
type handleTable struct {
	state *state.Region // immutable

	mu   sync.RWMutex
	open map[uint64]*handle // guarded by mu; made at its first use
}

// add gives an open its handle. False when the guest has as many as it may.
func (t *handleTable) add(h *handle, rec state.Handle) (fh uint64, ok bool) {
	fh, ok = t.state.Add(rec)
	if ok {
		h.fh = fh
		t.put(h)
	}
	return fh, ok
}

func (t *handleTable) put(h *handle) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open == nil {
		t.open = map[uint64]*handle{}
	}
	t.open[h.fh] = h
}

func (t *handleTable) get(fh uint64) *handle {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.open[fh]
}

// of finds an open of a control file, nil when there is none.
func (t *handleTable) of(n node) *handle {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, h := range t.open {
		if h.hier == n.hier && h.dir == n.dir && h.file == n.file && h.life == n.life {
			return h
		}
	}
	return nil
}

// take takes an open out of the table; its state is kept until forget.
func (t *handleTable) remove(fh uint64) *handle {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.open[fh]
	delete(t.open, fh)
	return h
}

func (t *handleTable) forget(fh uint64) { t.state.Remove(fh) }

// closeAll closes every host descriptor; the connection is over, or another server goes on with it.
func (t *handleTable) closeAll() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, h := range t.open {
		h.close()
	}
	t.open = nil
}

// close closes the host's descriptors.
func (h *handle) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, fd := range []int{h.fd, h.leaf} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	h.fd, h.leaf = -1, -1
}

// host is the host's descriptor. After a restart that of a read-only open is opened again, if it is still the same file:
// ENODEV when that is gone, as the descriptor would have said. EBADF for an open that has none.
func (h *handle) host() (int, error) {
	h.mu.Lock()
	fd := h.fd
	h.mu.Unlock()
	if fd >= 0 {
		return fd, nil
	}
	if h.file == "" || h.inode == 0 {
		return -1, unix.EBADF
	}
	d, err := h.hier.acquire(h.dir)
	if err != nil {
		return -1, unix.ENODEV
	}
	defer d.Release()
	fd, err = d.OpenFile(h.file, h.flags)
	if err != nil {
		return -1, unix.ENODEV
	}
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil || st.Ino != h.inode {
		unix.Close(fd)
		return -1, unix.ENODEV
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.fd >= 0 {
		unix.Close(fd)
		return h.fd, nil
	}
	h.fd = fd
	return fd, nil
}

// unknownPos is the position of a descriptor that an earlier server moved.
const unknownPos = -1

// positions are those of the descriptors, for the journal. The kernel is asked after a restart: its answer waits for a write
// that a thread of the dead server still makes by the same open file (fdget_pos), and so tells of it.
func (h *handle) positions() (own, leaf int64) {
	h.mu.Lock()
	own, leaf = h.pos, h.leafPos
	fd, leafFD := h.fd, h.leaf
	h.mu.Unlock()
	if own != unknownPos && leaf != unknownPos {
		return own, leaf
	}
	own, leaf = positionOf(fd), positionOf(leafFD)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pos, h.leafPos = own, leaf
	return own, leaf
}

func positionOf(fd int) int64 {
	if pos, err := unix.Seek(fd, 0, unix.SEEK_CUR); fd >= 0 && err == nil {
		return pos
	}
	return 0
}

// wrote moves a position on: the kernel moves that of a descriptor with each write that succeeded, and with no other.
func (h *handle) wrote(n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pos += int64(n)
}

// leafKey is under which the holder keeps the descriptor of a leaf's file.
const leafKey = 1 << 63

// hold has the holder keep a descriptor of an open.
func (v *View) hold(key uint64, fd int) {
	if v.holder == nil {
		return
	}
	if err := v.holder.Hold(key, fd); err != nil {
		v.log.WithError(err).Error("cannot give the holder a descriptor; it will not survive the server")
	}
}
