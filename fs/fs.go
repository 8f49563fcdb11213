// Package fs is the view: the synthetic cgroup tree of one guest, answered request by request from the host's
// cgroupfs.
//
// Words. A hierarchy here is one of the host's as this guest sees it (viewHierarchy). A node is the object of a FUSE
// node id: the top of a view with several hierarchies, a symbolic link in it, a directory (a cgroup) or a control
// file. The leaf is the cgroup below the boundary in which the guest's processes live when the boundary may not hold
// them (v2); no listing shows it to the guest.
//
// What always holds. Node ids need no table: an id consists of the hierarchy, the directory's kernfs id and the
// control file's name (node.go), so the server can answer for any node that the kernel remembers. The authority of
// an open is settled at open and kept in its handle (handle.go). No lock is held across a call into the host. slow
// names the requests that can block; they run off the serving goroutine. Every host access goes through package
// hierarchy/host, below the boundary's descriptor.
//
// Lock order: handles.mu, handle.mu, quota.mu, expected.mu, triggers.mu, backings.mu, staleOpens.mu, settling.mu,
// eventQueue.mu, changes.mu and linkCounts.mu are leaves; none is taken under another, but backings.mu under lives.mu,
// and handle.mu under handles.mu where all opens are closed. Package state has its own, below them. attrs.slot is held
// across calls into the host, and only those leaves are taken under it. bridge.slot is held likewise, and attrs.slot is
// taken under it.
//
// The package never mounts, forks or touches its own mount from a serving goroutine.
package fs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/sirupsen/logrus"

	"github.com/vcgroupfs/vcgroupfs/fs/conn"
	"github.com/vcgroupfs/vcgroupfs/fs/state"
	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/policy"
)

// cacheTimeout is how long the kernel may answer from its caches after a change by the host that no watch reports. A
// change by the guest is coherent at once.
const cacheTimeout = time.Second

// Owner is the host's uid and gid of the guest's root.
type Owner struct {
	UID, GID uint32
}

// Config describes a view. All fields but Owner, Log and MountRef are needed.
type Config struct {
	Host       *host.Host
	Boundaries []*host.Boundary // one per hierarchy shown; the view does not close them
	Policy     *policy.Policy
	Layout     hierarchy.Layout // LayoutAuto mirrors the host
	Owner      Owner
	Log        *logrus.Entry

	// FSName is the source that mountinfo shows; "vcgroupfs" when empty.
	FSName string

	// MountRef returns a descriptor of the mounted view's root, for the one write per event that fires the guest's
	// inotify watches (poke in events.go). It is called off the serving goroutine. Nil: inotify in the guest sees
	// only the guest's own changes.
	MountRef func() (fd int, release func(), err error)

	// NoPassthrough routes every read through the server.
	NoPassthrough bool

	// MaxWatches bounds the watched directories of each hierarchy; 0 is 512. A change by the host in any other
	// directory shows within the cache timeout.
	MaxWatches int

	// State keeps the view for the next server; nil: the view ends with this one.
	State *state.Region
	// Device is the mounted device of an earlier server's connection, to be continued by State; nil: a new
	// connection.
	Device *os.File
	// Holder keeps descriptors for the next server; nil: none does.
	Holder Holder
	// Held are the descriptors that Holder kept, by key. The view takes over those that it needs; the caller closes
	// the others.
	Held map[uint64]int
	// Crashed says that the previous server crashed, rather than ended or was killed: its unanswered requests are
	// suspect.
	Crashed bool
	// Settle waits until no thread of an earlier server is in a call into the host; nil: none can be.
	Settle func()
	// Denied receives each refusal by the view's rules. It must be quick.
	Denied func(Denial)
	// Observe receives each answered request (conn.Config).
	Observe func(opcode uint32, errno int, took time.Duration)
	// Panicked is called after a request whose handler panicked was answered EIO.
	Panicked func()
	// Slots bounds the blocking requests of many views together; nil: no such bound.
	Slots *conn.Slots
	// MaxRate bounds the requests per second; 0: no bound.
	MaxRate int
	// MaxCPU bounds the processor time of requests that may block, in percent of one processor; 0: no bound.
	MaxCPU int
	// Transport is how the guest's requests come (conn.Config). A view that outlives its server has to be classic.
	Transport conn.Transport
}

// Holder keeps descriptors open for the next server, each under a key.
type Holder interface {
	// Hold keeps a duplicate of a descriptor, and replaces the one under the same key. The holder has it on return.
	Hold(key uint64, fd int) error
	// Drop closes the descriptor under a key.
	Drop(key uint64)
}

// View is one guest's tree on one FUSE connection.
type View struct {
	host        *host.Host                  // immutable
	policy      *policy.Policy              // immutable after arrange
	layout      hierarchy.Layout            // immutable, never LayoutAuto
	owner       Owner                       // immutable
	log         *logrus.Entry               // immutable
	hierarchies []*viewHierarchy            // immutable
	links       []link                      // immutable
	top         time.Time                   // immutable: the times of the top directory
	ref         func() (int, func(), error) // immutable, may be nil

	state   *state.Region // immutable
	private *state.Arena  // immutable; not nil if the state is private to this view
	names   *state.Arena  // immutable: control files' numbers in node ids
	holder  Holder        // immutable, may be nil
	denied  func(Denial)  // immutable, may be nil
	crashed bool          // immutable
	settle  func()        // immutable, may be nil
	alone   bool          // immutable: no thread waits for an answer of this process (see start)
	late    atomic.Bool   // what the previous server had begun, and this one not, is left

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

// New makes a view and its FUSE connection; mount it by Conn, then call Start.
//
// It fails without a boundary, if the layout asks for a hierarchy that is not among the boundaries, or with the
// error of conn.New.
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
		top: time.Now(), reclaims: make(chan struct{}, 1), state: cfg.State, holder: cfg.Holder, denied: cfg.Denied,
		crashed: cfg.Crashed, settle: cfg.Settle,
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
		// While no request waits: a server that is killed again and again would start counting anew with each
		// request.
		v.enterAttrs()()
	}
	return v, nil
}

// privateHandles bounds the open files and directories of a guest with a private state.
const privateHandles = 1 << 15

// makeState makes a state that no other view shares.
func (v *View) makeState() (err error) {
	if v.private, err = state.New(1, privateHandles); err != nil {
		return err
	}
	v.state, err = v.private.Allocate(nil)
	return err
}

// Layout returns the arrangement of the hierarchies, never LayoutAuto.
func (v *View) Layout() hierarchy.Layout { return v.layout }

// nested reports that the host's hierarchies are themselves views. Passthrough of a passed-through file is
// impossible (fuse_backing_open bounds the depth of the stack).
func (v *View) nested() bool { return v.hierarchies[0].boundary.Hierarchy().View }

// several reports that the view's top holds a directory per hierarchy.
func (v *View) several() bool { return v.layout != hierarchy.LayoutV2 }

// arrange makes the hierarchies and the top of the view for the layout.
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
		var via *bridge
		if v.layout.Translates(h) {
			v.policy = v.policy.Legacy()
		}
		all := v.layout.Shown(h, shown, v.policy.Controllers())
		if v.layout.Translates(h) {
			via = newBridge(b, all, v.policy.Quota())
		}
		for _, one := range all {
			v.show(b, one, via)
		}
	}
	if len(v.hierarchies) == 0 {
		return errors.New("cannot make a view: no hierarchy of this host holds a permitted controller")
	}
	if v.layout == hierarchy.LayoutV2 && len(v.hierarchies) == 1 {
		v.hierarchies[0].lent = newLent(cfg.Boundaries, v.hierarchies[0], v.policy)
	}
	if v.layout == hierarchy.LayoutV2 && len(v.hierarchies) != 1 {
		return fmt.Errorf("cannot make a view: layout v2 shows one hierarchy, %d were given", len(v.hierarchies))
	}
	if len(v.hierarchies) > maxHierarchies {
		return fmt.Errorf("cannot make a view: %d hierarchies, at most %d can be shown",
			len(v.hierarchies), maxHierarchies)
	}
	return nil
}

// show adds a hierarchy to the view, with the links that lead to it.
func (v *View) show(b *host.Boundary, h hierarchy.Hierarchy, via *bridge) {
	hier := newViewHierarchy(len(v.hierarchies), b, h, via, v.policy.Quota())
	v.hierarchies = append(v.hierarchies, hier)
	if via != nil {
		via.hierarchies = append(via.hierarchies, hier)
	}
	for _, name := range h.Symlinks() {
		v.links = append(v.links, link{name: name, target: h.Dir})
	}
}

// boundaries are those of the hierarchies, each once.
func (v *View) boundaries() (all []*host.Boundary) {
	for _, hier := range v.hierarchies {
		if !slices.Contains(all, hier.boundary) {
			all = append(all, hier.boundary)
		}
	}
	return all
}

// start opens the connection, the poller and the watchers of the host.
//
// A view is alone if it is to outlive its server on a kernel before Linux 6.9, which does not send the unanswered
// requests of a dead server again. Requests read from the server's device fail when the device is closed, at the
// exit of the server's last thread, and a thread that waits for such a request never exits. So the server of such a
// view never waits for a request of the guest or of its own: it does not drop entries from the kernel's cache, and
// has none kept there; and it does not write through its own mount, so a guest's inotify sees only the guest's own
// writes.
func (v *View) start(cfg Config) (err error) {
	c := conn.Config{
		FS: (*rawFS)(v), Poll: v.poll, Slow: v.slow,
		FSName: cfg.FSName, Subtype: v.subtype(), Passthrough: !cfg.NoPassthrough && !v.nested(), Log: cfg.Log,
		ReadDirPlus: true, OnPanic: cfg.Panicked,
		Observe: cfg.Observe, Slots: cfg.Slots, MaxRate: cfg.MaxRate, MaxCPU: cfg.MaxCPU,
		Transport: cfg.Transport,
	}
	c.Survival = &conn.Survival{Replied: v.replied}
	if v.private == nil {
		v.alone = !conn.Resends(v.state.Init())
		c.Survival = &conn.Survival{
			Clone: v.alone, Init: v.state.SetInit, Passthrough: v.state.SetPassthrough, Replied: v.replied,
			Suspect: v.suspect, Settled: v.state.RetireBut,
		}
		if v.alone {
			c.Survival.Keep = v.keep
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

// subtype follows "fuse." in mountinfo: the type that readers of mount tables expect.
func (v *View) subtype() string {
	if v.layout == hierarchy.LayoutV2 {
		return "cgroup2"
	}
	return "cgroup"
}

// Conn is the view's FUSE connection: mount it by Conn().Mount or Conn().Fsmount.
func (v *View) Conn() *conn.Conn { return v.conn }

// Start answers the guest until the view is unmounted or closed, or until its connection is aborted. Then it calls
// ended, on a goroutine of its own, with nil or the error. It is to be called once.
func (v *View) Start(ended func(error)) {
	start := func() {
		if err := v.conn.Start(ended); err != nil {
			ended(err)
		}
	}
	if !v.alone {
		start()
		return
	}
	go func() {
		v.finishOthers()
		start()
	}()
}

// Close ends the connection: requests in flight fail with ECONNABORTED, later ones with ENOTCONN. It removes the
// cgroups that the view added to the host, if the guest left them empty.
func (v *View) Close() error {
	var err error
	v.closeOnce.Do(func() {
		err = v.conn.Close()
		v.stop()
		for _, hier := range v.hierarchies {
			if hier.bridge != nil {
				hier.bridge.removeLeaf()
				continue
			}
			hier.removeLeaf()
		}
	})
	return err
}

// stop releases the resources of the view in this process.
func (v *View) stop() {
	for _, hier := range v.hierarchies {
		if hier.watcher != nil {
			hier.watcher.Close()
		}
		if hier.lent != nil {
			hier.lent.ooms.close()
		}
	}
	v.endPolls()
	v.queue.close()
	v.handles.closeAll()
	if v.private != nil {
		v.private.Close()
	}
}

// Suspend stops serving, so that another server continues with the same state. It waits for running requests and
// touches nothing afterwards. Serving ends with nil. The error is ctx's: some request is still unanswered.
func (v *View) Suspend(ctx context.Context) error {
	var err error
	v.closeOnce.Do(func() {
		if err = v.conn.Suspend(ctx); err == nil {
			v.stop()
		}
	})
	return err
}

// Open returns the number of files and directories that the guest has open.
func (v *View) Open() int { return v.state.Open() }

var _ fuse.RawFileSystem = (*rawFS)(nil)
