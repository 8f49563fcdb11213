// Package self is a directory that has nothing in it, and that asks who looks at it.
//
// # Words
//
// A touch is a request about the directory itself, which the kernel makes before it looks a name up in it, lists it or opens it.
// The toucher is the thread that makes it. Covering is to mount something on the directory, in the toucher's mount namespace.
//
// # What always holds
//
//   - The directory is empty, read-only and root's, for everybody. It serves as a trigger, as an automount point does: who is to
//     have something has it mounted here, and is then told ESTALE, on which the kernel walks the path once more, from its
//     beginning (retry_estale in fs/namei.c), and so comes to what is mounted.
//   - A touch holds no lock, so it may take its time. What comes with a lock held is answered at once: LOOKUP and READDIR hold the
//     directory's own shared, and who mounts on it needs that lock alone (lock_mount). As the file system is read-only nothing holds it
//     exclusively and then touches: open(O_CREAT) and its like give up before they ask for permission (mnt_want_write).
//   - A listing is empty to the last entry: "." would be copied to the caller while the lock is held, and the caller may have the
//     memory that it is copied to answer never.
//
// Attributes are good for no time at all, so each step of a path walk through the directory asks for them anew (fuse_permission).
//
// Who holds the directory open, or is in it, from before it was covered gets there by no path: told ESTALE again it would fail for
// ever, as runc does, which opens what it binds first and then asks what it is. So who was told and comes again at once, and finds it
// covered as it was, gets the empty directory.
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

// Outcome is what came of a touch.
type Outcome int

// The outcomes.
const (
	Empty   Outcome = iota // the toucher is to have nothing here
	Covered                // by this touch
	Already                // by an earlier one
)

// Config says what a directory asks. All fields but Log, Device and Crashed are needed.
type Config struct {
	// Touched is asked on a goroutine of its own for each touch, by the toucher's thread id in the pid namespace of this process.
	// It may block, while others are asked, and must return once Close is called. That many ask at once is its to bound.
	Touched func(tid int) Outcome
	// Own says whether a thread is one of this process: those are not asked for, and never wait.
	Own func(tid int) bool
	// State keeps what the next server must know.
	State *state.Region
	// Device is the connection's device, mounted, where an earlier server is followed; nil: a new one.
	Device *os.File
	// Crashed says that the server before did not just end or get killed: what it was doing is suspect.
	Crashed bool
	// Panicked is told that a request's handler panicked, after that was logged.
	Panicked func()
	Log      *logrus.Entry
}

// maxTouches bounds the touches that are under way: each is a goroutine that mostly waits.
const maxTouches = 4096

// Dir is the directory on its FUSE connection: mount it by Conn, then call Serve.
type Dir struct {
	fuse.RawFileSystem // what is not answered here is not implemented
	cfg                Config
	conn               *conn.Conn

	mu   sync.Mutex
	told map[int]time.Time // guarded by mu; threads that were told ESTALE of what they could have found, and when
}

// New makes the directory. The errors are of conn.New or conn.Adopt.
func New(cfg Config) (d *Dir, err error) {
	d = &Dir{RawFileSystem: fuse.NewDefaultRawFileSystem(), cfg: cfg, told: map[int]time.Time{}}
	c := conn.Config{
		FS: d, Slow: d.touches, MaxSlow: maxTouches, Unpaced: true, FSName: "vcgroupfs", Subtype: Subtype, ReadOnly: true, Log: cfg.Log,
		Survival: &conn.Survival{Clone: !conn.Resends(cfg.State.Init()), Init: cfg.State.SetInit, Replied: d.replied, Suspect: d.suspect},
	}
	if cfg.Panicked != nil {
		c.OnPanic = func(any) { cfg.Panicked() }
	}
	if cfg.Device == nil {
		d.conn, err = conn.New(c)
	} else {
		d.conn, err = conn.Adopt(c, cfg.Device, cfg.State.Init(), false)
	}
	return d, err
}

// Subtype is what mount tables show after "fuse.".
const Subtype = "cgroup-self"

// Conn is the directory's FUSE connection.
func (d *Dir) Conn() *conn.Conn { return d.conn }

// Serve answers until the directory is unmounted everywhere (nil) or closed, or until its connection is aborted (the error).
func (d *Dir) Serve() error { return d.conn.Serve() }

// Close ends the connection.
func (d *Dir) Close() error { return d.conn.Close() }

// Suspend stops serving, so that another server goes on. The error is ctx's: some request is not answered yet.
func (d *Dir) Suspend(ctx context.Context) error { return d.conn.Suspend(ctx) }

// replied is told that a request was answered: no server crashed in it.
func (d *Dir) replied(unique uint64) {
	if first, again := conn.Resent(unique); again {
		d.cfg.State.Cleared(first)
	}
}

func (d *Dir) suspect(unique uint64) bool {
	first, _ := conn.Resent(unique)
	return d.cfg.Crashed && d.cfg.State.Suspect(first) > state.MaxCrashes
}

// touches says whether a request is a touch. A thread in no pid namespace of this process has no number, and gets nothing.
func (d *Dir) touches(h *fuse.InHeader, _ []byte) bool {
	switch h.Opcode {
	case conn.OpGetattr, conn.OpStatfs, conn.OpGetxattr, conn.OpListxattr, conn.OpOpendir:
		return h.Pid != 0 && !d.cfg.Own(int(h.Pid))
	}
	return false
}

// touch asks who it is, and says whether the kernel is to walk the path anew.
func (d *Dir) touch(h *fuse.InHeader) (again bool) {
	if !d.touches(h, nil) {
		return false
	}
	outcome := d.cfg.Touched(int(h.Pid))
	return d.tell(int(h.Pid), outcome, time.Now())
}

const (
	toldFor = time.Second // the kernel walks anew at once
	maxTold = 4096
)

// tell says whether a thread is to be told that the directory is covered: not when it has just been, and came here again.
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

// rootNode is the only node there is.
const rootNode = fuse.FUSE_ROOT_ID

// String names the file system in go-fuse's messages.
func (d *Dir) String() string { return "self" }

// GetAttr is the touch that comes before all others.
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

// OpenDir opens the directory for who is to have it empty.
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

// StatFs says that there is no room.
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
