// Package self is an empty directory that asks its owner about each caller.
//
// # Words
//
// A touch is a request about the directory itself, which the kernel sends before it looks up a name in it, lists it
// or opens it. The toucher is the calling thread. Covering is to mount something on the directory, in the toucher's
// mount namespace.
//
// # What always holds
//
//   - The directory is empty, read-only and root's, for every caller. It serves as a trigger, like an automount
//     point: for a caller with a view, the owner mounts the view here, and the answer is then ESTALE, on which the
//     kernel walks the path once more from its beginning (retry_estale in fs/namei.c) and so reaches the mount.
//   - A touch holds no lock, so it may take its time. A request that comes with a lock held is answered at once:
//     LOOKUP and READDIR hold the directory's own lock shared, and mounting on it needs that lock (lock_mount). On a
//     read-only file system no caller holds it exclusively and then touches: open(O_CREAT) and its like give up
//     before they ask for permission (mnt_want_write).
//   - A listing is empty to the last entry: the kernel would copy "." to the caller while it holds the lock, and the
//     caller may have memory that never answers a page fault.
//
// Attributes expire at once, so each step of a path walk through the directory asks for them (fuse_permission).
//
// A caller that has the directory open, or as its working directory, from before it was covered reaches the mount by
// no path. A second ESTALE would make it fail for ever, as runc would, which opens the source of a bind mount first
// and then asks for its attributes. So a thread that was told ESTALE and comes again at once, with the directory
// covered as before, gets the empty directory.
package self

import (
	"context"
	"os"
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/fs/conn"
	"github.com/vcgroupfs/vcgroupfs/fs/state"
)

// Outcome is the result of a touch.
type Outcome int

// The outcomes.
const (
	Empty   Outcome = iota // no view for the toucher
	Covered                // covered by this touch
	Already                // covered by an earlier touch
)

// Config describes a directory. All fields but Log, Device and Crashed are needed.
type Config struct {
	// Touched is called on a goroutine of its own for each touch, with the toucher's thread id in the pid namespace
	// of this process. It may block, concurrently with other calls, and must return once Close is called. It bounds
	// its own concurrency.
	Touched func(tid int) Outcome
	// Own reports a thread of this process. Touched is not called for it, and it never waits.
	Own func(tid int) bool
	// State keeps the directory for the next server.
	State *state.Region
	// Device is the mounted device of an earlier server's connection; nil: a new connection.
	Device *os.File
	// Crashed says that the previous server crashed, rather than ended or was killed: its unanswered requests are
	// suspect.
	Crashed bool
	// Panicked is called after a request whose handler panicked was answered EIO.
	Panicked func()
	Log      *logrus.Entry
}

// maxTouches bounds the running touches, each a goroutine that mostly waits.
const maxTouches = 4096

// Dir is the directory on its FUSE connection: mount it by Conn, then call Serve.
type Dir struct {
	fuse.RawFileSystem // the operations below override it; all others are not implemented
	cfg                Config
	conn               *conn.Conn

	mu   sync.Mutex
	told map[int]time.Time // guarded by mu; by thread, the time of its last ESTALE
}

// New makes the directory. The errors are those of conn.New or conn.Adopt.
func New(cfg Config) (d *Dir, err error) {
	d = &Dir{RawFileSystem: fuse.NewDefaultRawFileSystem(), cfg: cfg, told: map[int]time.Time{}}
	c := conn.Config{
		FS: d, Slow: d.touches, MaxSlow: maxTouches, Unpaced: true, FSName: "vcgroupfs", Subtype: Subtype,
		ReadOnly: true, Log: cfg.Log, OnPanic: cfg.Panicked,
		Survival: &conn.Survival{
			Clone: !conn.Resends(cfg.State.Init()), Init: cfg.State.SetInit, Replied: d.replied, Suspect: d.suspect,
		},
	}
	if cfg.Device == nil {
		d.conn, err = conn.New(c)
	} else {
		d.conn, err = conn.Adopt(c, cfg.Device, cfg.State.Init(), false)
	}
	return d, err
}

// Subtype follows "fuse." in mount tables.
const Subtype = "cgroup-self"

// Conn is the directory's FUSE connection.
func (d *Dir) Conn() *conn.Conn { return d.conn }

// Serve answers until the directory is unmounted everywhere (nil) or closed, or until its connection is aborted (the
// error).
func (d *Dir) Serve() error { return d.conn.Serve() }

// Close ends the connection.
func (d *Dir) Close() error { return d.conn.Close() }

// Suspend stops serving, for another server to continue. The error is ctx's: some request is unanswered.
func (d *Dir) Suspend(ctx context.Context) error { return d.conn.Suspend(ctx) }

// replied clears an answered request of the suspicion of crashing servers.
func (d *Dir) replied(unique uint64) {
	if first, again := conn.Resent(unique); again {
		d.cfg.State.Cleared(first)
	}
}

func (d *Dir) suspect(unique uint64) bool {
	first, _ := conn.Resent(unique)
	return d.cfg.Crashed && d.cfg.State.Suspect(first) > state.MaxCrashes
}

// touches reports that a request is a touch. A thread outside the pid namespace of this process has no number, and
// gets the empty directory.
func (d *Dir) touches(h *fuse.InHeader, _ []byte) bool {
	switch h.Opcode {
	case conn.OpGetattr, conn.OpStatfs, conn.OpGetxattr, conn.OpListxattr, conn.OpOpendir:
		return h.Pid != 0 && !d.cfg.Own(int(h.Pid))
	}
	return false
}

// touch calls Touched, and reports that the kernel is to walk the path again.
func (d *Dir) touch(h *fuse.InHeader) (again bool) {
	if !d.touches(h, nil) {
		return false
	}
	outcome := d.cfg.Touched(int(h.Pid))
	return d.tell(int(h.Pid), outcome, time.Now())
}

const (
	toldFor = time.Second // the kernel walks again at once
	maxTold = 4096
)

// tell reports that a thread is to get ESTALE: not if it got it just before for the same mount.
func (d *Dir) tell(tid int, outcome Outcome, now time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	at, ok := d.told[tid]
	delete(d.told, tid)
	if outcome == Empty || outcome == Already && ok && now.Sub(at) < toldFor {
		return false
	}
	if len(d.told) >= maxTold {
		clear(d.told)
	}
	d.told[tid] = now
	return true
}

// rootNode is the only node.
const rootNode = fuse.FUSE_ROOT_ID

// String names the file system in go-fuse's messages.
func (d *Dir) String() string { return "self" }

// GetAttr is the touch before all others.
func (d *Dir) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	if in.NodeId != rootNode || d.touch(&in.InHeader) {
		return fuse.Status(unix.ESTALE)
	}
	out.Attr = fuse.Attr{Ino: rootNode, Mode: unix.S_IFDIR | 0o555, Nlink: 2}
	return fuse.OK
}

// Lookup finds nothing. It comes with the directory's lock held, after a touch.
func (d *Dir) Lookup(_ <-chan struct{}, in *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	return fuse.ENOENT
}

// OpenDir opens the empty directory.
func (d *Dir) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if in.NodeId != rootNode || d.touch(&in.InHeader) {
		return fuse.Status(unix.ESTALE)
	}
	return fuse.OK
}

// ReadDir lists nothing, not even the directory itself.
func (d *Dir) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return fuse.OK
}

// StatFs reports zero counts.
func (d *Dir) StatFs(_ <-chan struct{}, in *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	if d.touch(in) {
		return fuse.Status(unix.ESTALE)
	}
	*out = fuse.StatfsOut{Bsize: 4096, Frsize: 4096, NameLen: 255}
	return fuse.OK
}

// GetXAttr finds no attribute.
func (d *Dir) GetXAttr(_ <-chan struct{}, in *fuse.InHeader, attr string, dest []byte) (uint32, fuse.Status) {
	if d.touch(in) {
		return 0, fuse.Status(unix.ESTALE)
	}
	return 0, fuse.ENODATA
}

// ListXAttr lists no attribute.
func (d *Dir) ListXAttr(_ <-chan struct{}, in *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	if d.touch(in) {
		return 0, fuse.Status(unix.ESTALE)
	}
	return 0, fuse.OK
}
