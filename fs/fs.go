// Package fs is the view: the synthetic cgroup tree of one guest, answered request by request from the host's cgroupfs.
//
// Words. A hierarchy here is one of the host's as this guest sees it (viewHierarchy). A node is what a FUSE node id names: the top of a view with several
// trees, a symbolic link in it, a directory (a cgroup) or a control file. The leaf is the cgroup below the boundary in
// which the guest's processes live when the boundary itself may not hold them (v2); the guest sees it nowhere listed.
//
// What always holds. Node ids need no table: they are made of the hierarchy, the directory's kernfs id and the control file's
// name (node.go), so any node that the kernel remembers can be answered for. What an open may do is settled when it is
// opened and kept in its handle (handle.go). No lock is held across a call into the host. A request that could block is
// named by slow and runs off the serving goroutine. Every host access goes through package hierarchy/host, below the
// boundary's descriptor.
//
// Lock order: handles.mu, handle.mu, quota.mu, expected.mu, triggers.mu, backings.mu, staleOpens.mu, settling.mu and
// eventQueue.mu are leaves; none is taken under another, but backings.mu under lives.mu. Package state has its own, below
// them. attrs.slot is held across calls into the host, and nothing but those leaves is taken under it.
//
// The package never mounts, forks or touches its own mount from a serving goroutine.
package fs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/sirupsen/logrus"

	"github.com/vcgroupfs/vcgroupfs/fs/conn"
	"github.com/vcgroupfs/vcgroupfs/fs/state"
	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/policy"
)

// cacheTimeout is how long the kernel may answer from its caches for what the host changed unseen by a watch. What the
// guest changes is coherent at once.
const cacheTimeout = time.Second

// Owner is the host's uid and gid that are root in the guest.
type Owner struct {
	UID, GID uint32
}

// Config says what a view shows. All fields but Owner, Log and MountRef are needed.
type Config struct {
	Host       *host.Host
	Boundaries []*host.Boundary // one per hierarchy shown; the view does not close them
	Policy     *policy.Policy
	Layout     hierarchy.Layout // LayoutAuto mirrors the host
	Owner      Owner
	Log        *logrus.Entry

	// FSName is the source that mountinfo shows; "vcgroupfs" when empty.
	FSName string

	// MountRef gives a descriptor of the root of the mounted view, for the one write per event that makes a guest's
	// inotify fire (poke in events.go). It is called off the serving goroutine. Nil: inotify in the guest sees its own changes only.
	MountRef func() (fd int, release func(), err error)

	// NoPassthrough makes every read go through the server.
	NoPassthrough bool

	// MaxWatches bounds the directories that are watched for the guest in each hierarchy; 0 is 512. What the host changes
	// beyond them shows within the cache timeout.
	MaxWatches int

	// State keeps what the next server must know; nil: the view ends with this one.
	State *state.Region
	// Device is the connection's device, mounted, where the view goes on from an earlier server by State; nil: a new one.
	Device *os.File
	// Holder keeps descriptors for the next server; nil: none does.
	Holder Holder
	// Held are the descriptors that it kept, by key. The view takes those over that it needs; the caller closes the others.
	Held map[uint64]int
	// Crashed says that the server before did not just end or get killed: what it was doing is suspect.
	Crashed bool
	// Settle waits until no thread of an earlier server is in a call of the host's any more; nil: none can be.
	Settle func()
	// Denied is told what the guest is refused by the view's rules. It must be quick.
	Denied func(Denial)
	// Observe is told of each request that was answered (conn.Config).
	Observe func(opcode uint32, errno int, took time.Duration)
	// Panicked is told that a request's handler panicked, after that was logged.
	Panicked func()
	// Slots bounds the requests that block at once, over many views; nil: no such bound.
	Slots *conn.Slots
	// MaxRate bounds the requests in a second; 0: no bound.
	MaxRate int
	// MaxCPU bounds what requests that may block take of a processor, in percent of one; 0: no bound.
	MaxCPU int
}

// Holder keeps descriptors open for the next server, each under a key.
type Holder interface {
	// Hold keeps a duplicate of a descriptor, instead of what was kept under the key. It has it when it returns.
	Hold(key uint64, fd int) error
	// Drop closes what is kept under a key.
	Drop(key uint64)
}

// View is one guest's tree on one FUSE connection.
type View struct {
	host        *host.Host                  // immutable
	policy      *policy.Policy              // immutable
	layout      hierarchy.Layout            // immutable, never LayoutAuto
	owner       Owner                       // immutable
	log         *logrus.Entry               // immutable
	hierarchies []*viewHierarchy            // immutable
	links       []link                      // immutable
	top         time.Time                   // immutable: the times of the top directory
	ref         func() (int, func(), error) // immutable, may be nil

	state   *state.Region // immutable
	private *state.Arena  // immutable; not nil when the state is this view's alone
	names   *state.Arena  // immutable: control files' numbers in node ids
	holder  Holder        // immutable, may be nil
	denied  func(Denial)  // immutable, may be nil
	crashed bool          // immutable
	settle  func()        // immutable, may be nil
	alone   bool          // immutable: no thread waits for an answer of this process (see below)

	conn     *conn.Conn
	handles  handleTable
	backings backingTable
	triggers triggerBound
	attrs    attrAccount
	others   strangers
	lives    lifeTable
	stale    staleOpens
	settling settling
	reclaims chan struct{} // one slot: memory.reclaim and memory.force_empty run one at a time in a guest

	poller *host.Poller // immutable; the host's, for all views
	queue  *eventQueue

	closeOnce sync.Once
}

// link is a symbolic link at the top of a v1 view: "cpu" for a directory "cpu,cpuacct".
type link struct {
	name, target string
}

// New makes a view and its FUSE connection; mount it by Conn, then call Serve.
//
// It fails when no boundary was given, when the layout asks for a hierarchy that is not among them, or with what
// conn.New says of /dev/fuse.
func New(cfg Config) (*View, error) {
	if len(cfg.Boundaries) == 0 {
		return nil, errors.New("cannot make a view: no hierarchy of this host holds a permitted controller")
	}
	if cfg.Log == nil {
		cfg.Log = logrus.NewEntry(logrus.StandardLogger())
	}
	if cfg.FSName == "" {
		cfg.FSName = "vcgroupfs"
	}
	v := &View{
		host: cfg.Host, policy: cfg.Policy, owner: cfg.Owner, log: cfg.Log, ref: cfg.MountRef,
		top: time.Now(), reclaims: make(chan struct{}, 1), state: cfg.State, holder: cfg.Holder, denied: cfg.Denied, crashed: cfg.Crashed, settle: cfg.Settle,
	}
	if err := v.arrange(cfg); err != nil {
		return nil, err
	}
	if v.state == nil {
		if err := v.makeState(); err != nil {
			return nil, err
		}
	}
	v.names = v.state.Arena()
	v.handles.state, v.backings.state = v.state, v.state
	v.attrs.init(v.state)
	if err := v.start(cfg); err != nil {
		return nil, err
	}
	v.load(cfg.Held)
	if cfg.Device == nil {
		v.enterAttrs()() // while nobody waits: a server that is killed again and again would begin anew with each request
	}
	return v, nil
}

// privateHandles is how many open files and directories a guest of this server alone may have.
const privateHandles = 1 << 15

// makeState makes a state that nobody shares.
func (v *View) makeState() (err error) {
	if v.private, err = state.New(1, privateHandles); err != nil {
		return err
	}
	v.state, err = v.private.Allocate(nil)
	return err
}

// Layout is how the view arranges its hierarchies: never LayoutAuto.
func (v *View) Layout() hierarchy.Layout { return v.layout }

// nested says whether the host's hierarchies are themselves views. Their files cannot be passed through once more
// (fuse_backing_open wants a stack less deep).
func (v *View) nested() bool { return v.hierarchies[0].boundary.Hierarchy().View }

// several says whether the view's top holds a directory per hierarchy.
func (v *View) several() bool { return v.layout != hierarchy.LayoutV2 }

// arrange makes the hierarchies and the top of the view as the layout says.
func (v *View) arrange(cfg Config) (err error) {
	var shown []hierarchy.Hierarchy
	for _, b := range cfg.Boundaries {
		shown = append(shown, b.Hierarchy().Hierarchy)
	}
	if v.layout, err = cfg.Layout.Arrange(shown); err != nil {
		return err
	}
	for _, b := range cfg.Boundaries {
		h := b.Hierarchy().Hierarchy
		v.hierarchies = append(v.hierarchies, newViewHierarchy(len(v.hierarchies), b, v.policy.Quota()))
		for _, name := range h.Symlinks() {
			v.links = append(v.links, link{name: name, target: h.Dir})
		}
	}
	if v.layout == hierarchy.LayoutV2 && len(v.hierarchies) != 1 {
		return fmt.Errorf("cannot make a view: layout v2 shows one hierarchy, %d were given", len(v.hierarchies))
	}
	if len(v.hierarchies) > maxHierarchies {
		return fmt.Errorf("cannot make a view: %d hierarchies, at most %d can be shown", len(v.hierarchies), maxHierarchies)
	}
	return nil
}

// start opens the connection and what watches the host.
func (v *View) start(cfg Config) (err error) {
	c := conn.Config{
		FS: (*rawFS)(v), Poll: v.poll, Slow: v.slow,
		FSName: cfg.FSName, Subtype: v.subtype(), Passthrough: !cfg.NoPassthrough && !v.nested(), Log: cfg.Log,
		Observe: cfg.Observe, Slots: cfg.Slots, MaxRate: cfg.MaxRate, MaxCPU: cfg.MaxCPU,
	}
	if cfg.Panicked != nil {
		c.OnPanic = func(any) { cfg.Panicked() }
	}
	c.Survival = &conn.Survival{Replied: v.replied}
	if v.private == nil {
		v.alone = !conn.Resends(v.state.Init())
		c.Survival = &conn.Survival{
			Clone: v.alone, Init: v.state.SetInit, Passthrough: v.state.SetPassthrough, Replied: v.replied,
			Suspect: v.suspect, Settled: v.state.RetireBut,
		}
	}
	if cfg.Device == nil {
		v.conn, err = conn.New(c)
	} else {
		v.conn, err = conn.Adopt(c, cfg.Device, v.state.Init(), v.state.Passthrough())
	}
	if err != nil {
		return err
	}
	v.queue = newEventQueue(v)
	v.poller, err = v.host.Poller()
	for _, hier := range v.hierarchies {
		if err == nil {
			hier.watcher, err = v.host.NewWatcher(func(e host.Event) { v.queue.put(hier, e) }, cfg.MaxWatches)
		}
	}
	if err != nil {
		v.Close()
		return fmt.Errorf("cannot watch the host's cgroups: %w", err)
	}
	return nil
}

// Where the kernel does not send again what a dead server leaves (before Linux 6.9), what was read from its device fails when
// that is closed, which is when its last thread has ended. A thread that waits for such a request then never ends: so a view
// that is to outlive its server (alone) does nothing that waits for a request of the guest or of its own. It does not drop
// entries from the kernel's cache, and has none kept there; and it does not write through its own mount, so a guest's
// inotify sees only what the guest itself writes.

// subtype is what mountinfo shows after "fuse.": the type a reader of mount tables would look for.
func (v *View) subtype() string {
	if v.layout == hierarchy.LayoutV2 {
		return "cgroup2"
	}
	return "cgroup"
}

// Conn is the view's FUSE connection: mount it by Conn().Mount or Conn().Fsmount.
func (v *View) Conn() *conn.Conn { return v.conn }

// Serve answers the guest until the view is unmounted (nil) or closed, or until its connection is aborted (the error).
func (v *View) Serve() error { return v.conn.Serve() }

// Close ends the connection: requests in flight fail with ECONNABORTED, later ones with ENOTCONN. It takes back what the
// view added to the host, as far as the guest left it empty.
func (v *View) Close() error {
	var err error
	v.closeOnce.Do(func() {
		err = v.conn.Close()
		v.stop()
		for _, hier := range v.hierarchies {
			hier.removeLeaf()
		}
	})
	return err
}

// stop gives back what the view has of this process.
func (v *View) stop() {
	for _, hier := range v.hierarchies {
		if hier.watcher != nil {
			hier.watcher.Close()
		}
	}
	v.endPolls()
	v.queue.close()
	v.handles.closeAll()
	if v.private != nil {
		v.private.Close()
	}
}

// Suspend stops serving, so that another server goes on by the same state: it waits for what is under way and touches
// nothing afterwards. Serve returns nil. The error is ctx's, and says that some request is not answered yet.
func (v *View) Suspend(ctx context.Context) error {
	var err error
	v.closeOnce.Do(func() {
		if err = v.conn.Suspend(ctx); err == nil {
			v.stop()
		}
	})
	return err
}

// Open is how many files and directories the guest has open.
func (v *View) Open() int { return v.state.Open() }

var _ fuse.RawFileSystem = (*rawFS)(nil)
