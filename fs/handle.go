package fs

import (
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/fs/state"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/translate"
	"github.com/vcgroupfs/vcgroupfs/policy"
)

// handle is one open of a control file or directory by the guest. It carries the authority settled at open (rule 4):
// the host descriptor with the granted access, the verdict, and the opener.
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
	backing  *backing        // immutable: nil unless the kernel reads the host's file itself, for this open or others
	inode    uint64          // immutable: of the host's file, 0 if no I/O of the open reaches the server
	row      *translate.Row  // immutable: what stands for a file of a bridge; nil for one without a row
	counted  uint32          // immutable: state.Stranger if the open counts as a stranger's

	fired atomic.Uint32 // events of a PSI trigger that the poller has and the guest has not

	mu      sync.Mutex
	fd      int        // guarded by mu: host descriptor of a control file, -1 for none (yet, after a restart)
	pos     int64      // guarded by mu: position of fd, advanced by each write
	leaf    int        // guarded by mu: descriptor of the leaf's file of the same name, -1 before its first use
	leafPos int64      // guarded by mu: its position
	content []byte     // guarded by mu: content of a filtered read at offset 0, for the following reads
	entries []dirEntry // guarded by mu: a directory's listing, made at offset 0
	trigger bool       // guarded by mu: the descriptor carries a PSI trigger
	rest    rest       // guarded by mu: outstanding parts of a write
	held    bool       // guarded by mu: the holder has the descriptor too
	kh      uint64     // guarded by mu: the kernel's number for polls, 0 before the first poll
}

// credentials describe the opener, in the host's ids.
type credentials struct {
	uid, gid uint32
	tid      int  // 0 after a restart
	admin    bool // CAP_SYS_ADMIN over the host; set only for a verdict that needs it
}

// handleTable maps FUSE file handles to opens. The state keeps each open too, for the next server.
type handleTable struct {
	state *state.Region // immutable

	mu   sync.RWMutex
	open map[uint64]*handle // guarded by mu; nil before its first use
}

// add gives an open its handle. False if the guest has reached its bound.
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

// of finds an open of a control file, or nil.
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

// uses reports an open of a directory in one of its lives, or of a file in it.
func (t *handleTable) uses(n node) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, h := range t.open {
		if h.hier == n.hier && h.dir == n.dir && h.life == n.life {
			return true
		}
	}
	return false
}

// remove removes an open from the table; the state keeps it until forget.
func (t *handleTable) remove(fh uint64) *handle {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.open[fh]
	delete(t.open, fh)
	return h
}

func (t *handleTable) forget(fh uint64) { t.state.Remove(fh) }

// closeAll closes every host descriptor, after the end of the connection or before another server continues it.
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

// host returns the host's descriptor. After a restart it opens the file of a read-only open again, if that is still
// the same file: ENODEV if not, as the old descriptor would have answered. EBADF for an open without a descriptor.
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
	d, err := h.acquire()
	if err != nil {
		return -1, unix.ENODEV
	}
	defer d.Release()
	file, flags := h.file, h.flags
	if h.row != nil {
		file, flags = h.row.HostFile(file), unix.O_RDONLY
	}
	fd, err = d.OpenFile(file, flags)
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

// readHost reads the whole of the host's file. The errors are those of host and of the read.
func (h *handle) readHost() ([]byte, error) {
	fd, err := h.host()
	if err != nil {
		return nil, err
	}
	return host.ReadAll(fd)
}

// unknownPos is the position of a descriptor that an earlier server has written to.
const unknownPos = -1

// positions returns the positions of the descriptors, for the journal. After a restart it asks the kernel. The
// answer waits for a write that a thread of the dead server is still making by the same open file (fdget_pos), and
// so includes it.
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

// wrote advances the position by a successful write; the kernel moves a descriptor's position with no other.
func (h *handle) wrote(n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pos += int64(n)
}

// leafKey marks the holder's key of the descriptor of a leaf's file.
const leafKey = 1 << 63

// hold gives a descriptor of an open to the holder.
func (v *View) hold(key uint64, fd int) {
	if v.holder == nil {
		return
	}
	if err := v.holder.Hold(key, fd); err != nil {
		v.log.WithError(err).Error("cannot give the holder a descriptor; it will not survive the server")
	}
}
