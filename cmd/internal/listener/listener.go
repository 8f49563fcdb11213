// Package listener answers system calls of containers for the daemon, in a process of its own: the answerer.
//
// # Words
//
// A runtime gives a container a seccomp profile that stops some calls, and hands over its listener: the descriptor that
// delivers the calls. The answerer finds the guest whose view the container has, and answers as package notify does. To
// pass a call on is to let the kernel carry it out as without a profile. An entry is the answerer's state of a
// listener; its word is the part of it that the holder keeps.
//
// # What always holds
//
//   - A call is passed on unless the container's guest is known: the listener may come before the guest, outlive
//     it, or belong to no guest.
//   - An answer concerns the view of that guest alone. The process that hands a listener over names the guest; a
//     wrong name gains nothing, since every answer is about the caller itself (package notify).
//   - The holder has a listener before a call is received from it, and a call is received into memory that outlives
//     this process.
//   - After the end of the holder this process lives on until the last container with a listener has ended: without
//     listeners the kernel fails their calls with ENOSYS.
//
// Lock order: entry.mu, then guests.mu. answerer.mu is a leaf. None is held across a call that can block on a guest.
package listener

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/holder"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/notify"
	"github.com/vcgroupfs/vcgroupfs/fs/state"
)

// word identifies the guest of a listener, as the holder keeps it: KIND.PID.START.NAME.
type word struct {
	kind  string
	pid   int    // of the container's first process
	start uint64 // of that process, to detect a reused number; 0 if it had ended
	name  string // of the guest
}

// Kinds of kept descriptors.
const (
	kindConn     = "conn"     // a connection whose listener is not received yet
	kindListener = "listener" //
	kindLXC      = "lxc"      // a connection by which LXC sends each call
)

// String returns the word in the holder's form.
func (w word) String() string { return fmt.Sprintf("%s.%d.%d.%s", w.kind, w.pid, w.start, w.name) }

// parseWord reads a word. Of an unknown form it sets the kind only, or nothing.
func parseWord(s string) word {
	parts := strings.SplitN(s, ".", 4)
	w := word{kind: parts[0]}
	if len(parts) == 4 {
		w.pid, _ = strconv.Atoi(parts[1])
		w.start, _ = strconv.ParseUint(parts[2], 10, 64)
		w.name = parts[3]
	}
	return w
}

// entry is the state of one listener.
type entry struct {
	of   *answerer
	key  uint64 // immutable
	word word   // immutable
	log  *logrus.Entry

	running atomic.Int32          // calls under way
	guest   atomic.Pointer[guest] // nil while unknown

	mu   sync.Mutex    // held during the search for the guest
	seen []state.Sight // guarded by mu; the guests of the last search without a result
}

const (
	// threads bounds the calls of a listener that may wait for a guest's file system. The calls under way fit into a page.
	threads = (state.CallsOfListener - 1) / 4
	// callTimeout bounds the time of a call until its answer.
	callTimeout = 5 * time.Second
	// patience bounds a call's wait for one of its guest's slots.
	patience = time.Second
)

// serve answers the calls of a listener, which it takes over, until the listener's last process has ended or this
// process drains.
func (e *entry) serve(fd int) {
	a := e.of
	file, err := notify.NewListener(fd)
	if err != nil {
		e.log.WithError(err).Error("cannot serve a listener")
		unix.Close(fd)
		a.forget(e)
		return
	}
	a.opened(e, file)
	s := &notify.Supervisor{
		Guest: e, Log: e.log, Threads: threads, Timeout: callTimeout, Admit: e.admit, Observe: e.observe, Stuck: a.stuck,
	}
	err = s.Serve(file, requests(a.calls.Of(e.key)))
	if errors.Is(err, os.ErrDeadlineExceeded) {
		// The next answerer has it.
		return
	}
	if err != nil {
		e.log.WithError(err).Error("a listener is served no more")
	}
	for end := time.Now().Add(callTimeout + time.Second); e.running.Load() > 0 && time.Now().Before(end); {
		// A call that ends late still uses its memory.
		time.Sleep(10 * time.Millisecond)
	}
	file.Close()
	a.forget(e)
}

// requests converts the memory of calls for package notify: both types are struct seccomp_notif.
func requests(calls []*state.Call) (all []*notify.Request) {
	for _, c := range calls {
		all = append(all, (*notify.Request)(c.Pointer()))
	}
	return all
}

// admit admits a call to be answered. leave must be called after the answer.
func (e *entry) admit() (leave func(), ok bool) {
	if e.of.passing.Load() {
		return nil, false
	}
	g := e.match()
	if g == nil {
		return nil, false
	}
	release, ok := e.of.enter(g)
	if !ok {
		return nil, false
	}
	e.running.Add(1)
	failpoint("listener-received")
	return func() {
		e.running.Add(-1)
		release()
	}, true
}

// observe counts the outcome of a call.
func (e *entry) observe(passedOn bool) {
	if g := e.guest.Load(); g != nil && e.of.arena.Sees(g.sight) {
		x := e.of.arena.Glance(g.sight).Answers()
		if passedOn {
			atomic.AddUint64(&x.PassedOn, 1)
		} else {
			atomic.AddUint64(&x.Answered, 1)
		}
	}
}

// match returns the guest of a listener, nil if there is none. It searches again only after guests were added or
// removed.
func (e *entry) match() *guest {
	g := e.guest.Load()
	if g != nil && e.of.arena.Sees(g.sight) {
		return g
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if again := e.guest.Load(); again != g && again != nil {
		return again
	}
	e.guest.Store(nil)
	now := e.of.arena.Sights(make([]state.Sight, 0, len(e.seen)))
	if sameSights(now, e.seen) {
		return nil
	}
	g = e.of.guests.find(e.word, now)
	e.seen = now
	if g != nil {
		e.seen = nil
		e.guest.Store(g)
		atomic.AddUint64(&e.of.arena.Glance(g.sight).Answers().Listeners, 1)
		e.log.WithField("guest", g.record.Name).Info("answering the calls of a container")
	}
	return g
}

func sameSights(a, b []state.Sight) bool {
	if len(a) != len(b) || b == nil {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// Type implements notify.Guest.
func (e *entry) Type(fd int) uint32 {
	if g := e.guest.Load(); g != nil {
		return g.view.Type(fd)
	}
	return 0
}

// Tree implements notify.Guest. notify.ErrPassOn without a guest.
func (e *entry) Tree(c *notify.Caller, fstype, options string) (int, error) {
	if g := e.guest.Load(); g != nil {
		return g.tree(c, fstype, options)
	}
	return -1, notify.ErrPassOn
}

// kept returns a listener in the form for the holder.
func (e *entry) kept(fd int) holder.Listener {
	return holder.Listener{Key: e.key, FD: fd, Word: e.word.String()}
}
