package host

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// defaultMaxWatches bounds the inodes that a Host watches, directories and files, for all its Watchers. Each
// occupies kernel memory.
const defaultMaxWatches = 65536

var errTooManyWatches = fmt.Errorf(
	"cannot watch one cgroup more: as many as SetMaxWatches allows are watched: %w", unix.ENOSPC)

// watchHub is the one inotify instance of a Host: a user may have 128 of them, and there is a Watcher for each
// hierarchy of each guest. The kernel has one watch per inode however often it is added, so the hub counts the
// users. It starts with the first Watcher.
type watchHub struct {
	done chan struct{} // made with file; closed after the last event

	mu       sync.Mutex
	file     *os.File              // guarded by mu; inotify, nil before the first Watcher
	raw      syscall.RawConn       // guarded by mu; of file
	ready    *os.File              // guarded by mu; an epoll instance that watches file once each time it is armed
	closed   bool                  // guarded by mu
	max      int                   // guarded by mu; of inodes, 0 is defaultMaxWatches
	inodes   map[int32]inode       // guarded by mu; by the kernel's number of the watch
	watchers map[*Watcher]struct{} // guarded by mu
}

// inode is one watch of the kernel. Its number belongs to one instance, so directories of several hierarchies differ
// here, even with equal kernfs ids.
type inode struct {
	pins    int      // number of users without a receiver
	watches []*watch // receivers; rarely more than one
}

// register adds a Watcher to the receivers of lost events, and opens inotify for the first one.
func (h *watchHub) register(w *Watcher) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return os.ErrClosed
	}
	if h.file == nil {
		if err := h.open(); err != nil {
			return err
		}
	}
	h.watchers[w] = struct{}{}
	return nil
}

// open opens inotify and starts reading it. Called with mu held.
func (h *watchHub) open() error {
	// Without IN_NONBLOCK, so that Go's poller does not watch it: each event would wake a thread.
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("inotify_init1", err)
	}
	file := os.NewFile(uintptr(fd), "inotify")
	ready, err := newReady(fd)
	if err != nil {
		file.Close()
		return err
	}
	if h.raw, err = file.SyscallConn(); err != nil {
		file.Close()
		ready.Close()
		return err
	}
	h.file, h.ready, h.done = file, ready, make(chan struct{})
	h.inodes, h.watchers = map[int32]inode{}, map[*Watcher]struct{}{}
	go h.run(file, ready)
	return nil
}

// newReady makes an epoll instance that reports once that a descriptor can be read. Go's poller waits for it.
func newReady(fd int) (*os.File, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	// os.NewFile takes a descriptor without O_NONBLOCK for one that its poller cannot wait for.
	if err = unix.SetNonblock(epoll, true); err == nil {
		err = arm(epoll, unix.EPOLL_CTL_ADD, fd)
	}
	if err != nil {
		unix.Close(epoll)
		return nil, err
	}
	return os.NewFile(uintptr(epoll), "epoll"), nil
}

// arm makes an epoll instance report the next event of a descriptor.
func arm(epoll, op, fd int) error {
	event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLONESHOT}
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(epoll, op, fd, &event))
}

// unregister removes a Watcher.
func (h *watchHub) unregister(w *Watcher) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.watchers, w)
}

// setMax sets the bound of inodes.
func (h *watchHub) setMax(n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.max = max(n, 0)
}

// add watches a descriptor's inode. of receives the events; nil only holds the inode. ENOSPC over the bound,
// os.ErrClosed after close.
func (h *watchHub) add(fd int, mask uint32, of *watch) (int32, error) {
	// With mu held, so that the reading goroutine finds the watch. This cannot block: the path to the inode is a
	// link of procfs, so no name is looked up in a cgroup.
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || h.file == nil {
		return 0, os.ErrClosed
	}
	var n int
	var err error
	if h.raw.Control(func(inotify uintptr) {
		// IN_MASK_ADD: holding an inode does not remove the events of its receivers.
		n, err = unix.InotifyAddWatch(int(inotify), procPath(fd), mask|unix.IN_MASK_ADD)
	}) != nil {
		return 0, os.ErrClosed
	}
	if err != nil {
		return 0, os.NewSyscallError("inotify_add_watch", err)
	}
	wd := int32(n)
	in, known := h.inodes[wd]
	limit := h.max
	if limit == 0 {
		limit = defaultMaxWatches
	}
	// The kernel alone knows whether an inode has a watch.
	if exempt := of != nil && of.watcher.exempt; !known && len(h.inodes) >= limit && !exempt {
		h.end(wd)
		return 0, errTooManyWatches
	}
	if of == nil {
		in.pins++
	} else {
		of.wd = wd
		in.watches = append(in.watches, of)
	}
	h.inodes[wd] = in
	return wd, nil
}

// drop undoes add with the same of.
func (h *watchHub) drop(wd int32, of *watch) {
	h.mu.Lock()
	defer h.mu.Unlock()
	in, ok := h.inodes[wd]
	if !ok {
		// Ended by the kernel, or the hub is closed.
		return
	}
	if of == nil {
		in.pins--
	} else {
		in.watches = slices.DeleteFunc(in.watches, func(w *watch) bool { return w == of })
	}
	if in.pins > 0 || len(in.watches) > 0 {
		h.inodes[wd] = in
		return
	}
	delete(h.inodes, wd)
	h.end(wd)
}

// end removes the kernel's watch. Called with mu held.
func (h *watchHub) end(wd int32) {
	h.raw.Control(func(inotify uintptr) { unix.InotifyRmWatch(int(inotify), uint32(wd)) })
}

// close ends all watches for good. No sink is called after it has returned.
func (h *watchHub) close() {
	h.mu.Lock()
	again := h.closed
	h.closed = true
	h.inodes, h.watchers = nil, nil
	h.mu.Unlock()
	if h.file == nil {
		return
	}
	if !again {
		h.ready.Close()
		h.file.Close()
	}
	<-h.done
}

// gather is the time that the hub lets further events gather before it reads again. Each wake-up for one would
// occupy a processor beside the request that caused the event.
const gather = 2 * time.Millisecond

func (h *watchHub) run(file, ready *os.File) {
	defer close(h.done)
	buf := make([]byte, 16<<10)
	// The receivers of one event, kept for the next.
	var told []told
	for {
		if waitReady(ready) != nil {
			return
		}
		n, err := file.Read(buf)
		if err != nil {
			// Closed: the only failure of reading inotify.
			return
		}
		for rest := buf[:n]; len(rest) >= unix.SizeofInotifyEvent; {
			rest, told = h.report(rest, told[:0])
		}
		time.Sleep(gather)
		if h.arm(ready) != nil {
			return
		}
	}
}

// waitReady waits until the epoll instance reports its descriptor. An error if it is closed.
func waitReady(ready *os.File) error {
	raw, err := ready.SyscallConn()
	if err != nil {
		return err
	}
	var event [1]unix.EpollEvent
	return raw.Read(func(epoll uintptr) bool {
		n, _ := unix.EpollWait(int(epoll), event[:], 0)
		return n > 0
	})
}

// arm makes ready report the next event. An error if one of the two is closed.
func (h *watchHub) arm(ready *os.File) (err error) {
	raw, err := ready.SyscallConn()
	if err != nil {
		return err
	}
	if cerr := h.raw.Control(func(inotify uintptr) {
		if rerr := raw.Control(func(epoll uintptr) {
			err = arm(int(epoll), unix.EPOLL_CTL_MOD, int(inotify))
		}); rerr != nil {
			err = rerr
		}
	}); cerr != nil {
		return cerr
	}
	return err
}

// told is a receiver of an event, and the directory's id in its hierarchy.
type told struct {
	by *Watcher
	id uint64
}

// report passes the first event in buf (struct inotify_event) on and returns the rest.
func (h *watchHub) report(buf []byte, who []told) ([]byte, []told) {
	wd := int32(binary.NativeEndian.Uint32(buf[0:]))
	mask := binary.NativeEndian.Uint32(buf[4:])
	size := int(binary.NativeEndian.Uint32(buf[12:]))
	buf = buf[unix.SizeofInotifyEvent:]
	if size > len(buf) {
		return nil, who
	}
	raw, rest := buf[:size], buf[size:]
	e := Event{
		Created:  mask&(unix.IN_CREATE|unix.IN_MOVED_TO) != 0,
		Deleted:  mask&(unix.IN_DELETE|unix.IN_MOVED_FROM) != 0,
		Modified: mask&unix.IN_MODIFY != 0,
		Attrib:   mask&unix.IN_ATTRIB != 0,
		Overflow: mask&unix.IN_Q_OVERFLOW != 0,
	}
	switch {
	case mask&unix.IN_IGNORED != 0:
		h.ended(wd)
		return rest, who
	case e.Overflow:
		who = h.everybody(who)
	case e.Created || e.Deleted || e.Modified || e.Attrib:
		if who = h.watchersOf(wd, who); len(who) > 0 {
			e.Name = strings.TrimRight(string(raw), "\x00")
		}
	}
	for _, t := range who {
		e.Dir = t.id
		t.by.tell(e)
	}
	// Keep no closed Watcher alive.
	clear(who)
	return rest, who
}

// watchersOf appends the receivers of a directory's events. The kernel reuses the number of a watch only after all
// others (idr_alloc_cyclic), so a late event is not attributed to another directory.
func (h *watchHub) watchersOf(wd int32, who []told) []told {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, w := range h.inodes[wd].watches {
		who = append(who, told{by: w.watcher, id: w.id})
	}
	return who
}

func (h *watchHub) everybody(who []told) []told {
	h.mu.Lock()
	defer h.mu.Unlock()
	for w := range h.watchers {
		who = append(who, told{by: w})
	}
	return who
}

// ended removes a watch that the kernel has ended with its inode.
func (h *watchHub) ended(wd int32) {
	h.mu.Lock()
	in := h.inodes[wd]
	delete(h.inodes, wd)
	h.mu.Unlock()
	for _, w := range in.watches {
		w.watcher.ended(w)
	}
}

// SetMaxWatches bounds the directories and files that all Watchers of the host watch together: beyond it Watch is
// ENOSPC. Follow watches beyond it. Existing watches stay. 0 is 65536.
func (h *Host) SetMaxWatches(n int) { h.watches.setMax(n) }

// NewWatcher makes a watcher of directories of one hierarchy, because kernfs ids are unique only within one. It
// calls sink for one event after another, on a goroutine shared by all Watchers of the host: sink must not wait for
// anything, and must not call Close of the Watcher or of the Host. limit bounds the watched directories; 0 is 512.
// EMFILE if there are too many inotify instances (fs.inotify.max_user_instances), os.ErrClosed after Close of the
// Host.
func (h *Host) NewWatcher(sink func(Event), limit int) (*Watcher, error) {
	if limit <= 0 {
		limit = maxWatches
	}
	w := &Watcher{hub: &h.watches, sink: sink, limit: limit, mask: watchMask}
	if err := h.watches.register(w); err != nil {
		return nil, explainInstances(err)
	}
	return w, nil
}

// explainInstances adds the remedy for the one limit that a host sets low.
func explainInstances(err error) error {
	if errors.Is(err, unix.EMFILE) {
		return fmt.Errorf("%w: raise fs.inotify.max_user_instances", err)
	}
	return err
}
