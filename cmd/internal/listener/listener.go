// Package listener answers system calls of containers for the daemon, in a process of its own: the answerer.
//
// # Words
//
// A runtime gives a container a seccomp profile that stops some calls, and hands the listener of that over: the
// descriptor by which the calls come. The answerer matches it to the guest whose view the container has, and answers
// as package notify does. To pass a call on is to let the kernel do it as if there were no profile. An entry is what
// the answerer knows of a listener; its word is what the holder keeps of that.
//
// # What always holds
//
//   - A call is passed on unless it is known of which guest the container is: the listener may come before the guest,
//     outlive it, or be of no guest.
//   - What is answered is about the view of that guest alone. Whoever hands a listener over says whose it is; a wrong
//     word gains nothing, since every answer is about the caller itself (package notify).
//   - A listener is with the holder before a call of it is received, and a call is received into memory that outlives
//     this process.
//   - When the holder ends, this process lives on until the last container with a listener has ended: without
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

// word is what must be known of a listener to find its guest, as the holder keeps it: KIND.PID.START.NAME.
type word struct {
	kind  string
	pid   int    // of the container's first process
	start uint64 // of that process, so that its number is no other's; 0 where it had ended
	name  string // of the guest
}

// The kinds of what is kept.
const (
	kindConn     = "conn"     // a connection of which the listener was not read yet
	kindListener = "listener" //
	kindLXC      = "lxc"      // a connection by which LXC asks for each call
)

func (w word) String() string { return fmt.Sprintf("%s.%d.%d.%s", w.kind, w.pid, w.start, w.name) }

// parseWord reads a word. Of what it does not understand only the kind is set, or nothing.
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

// entry is a listener.
type entry struct {
	of   *answerer
	key  uint64 // immutable
	word word   // immutable
	log  *logrus.Entry

	running atomic.Int32          // calls that are being answered
	guest   atomic.Pointer[guest] // nil while none is known

	mu   sync.Mutex    // held while a guest is looked for
	seen []state.Sight // guarded by mu; the guests among which there was none
}

const (
	// threads is how many calls of a listener may wait for a guest's file system; calls that are being answered have room in a page.
	threads = (state.CallsOfListener - 1) / 4
	// callTimeout is how long a call may take to be answered.
	callTimeout = 5 * time.Second
	// patience is how long a call waits for a place among those of its guest that are being answered.
	patience = time.Second
)

// serve answers the calls of a listener, which it takes over, until its last process has ended or this process drains.
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
		return // the next answerer has it
	}
	if err != nil {
		e.log.WithError(err).Error("a listener is served no more")
	}
	for end := time.Now().Add(callTimeout + time.Second); e.running.Load() > 0 && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond) // a call that ends late gives its room back
	}
	file.Close()
	a.forget(e)
}

// requests are the rooms of calls as package notify has them: both are struct seccomp_notif.
func requests(calls []*state.Call) (all []*notify.Request) {
	for _, c := range calls {
		all = append(all, (*notify.Request)(c.Pointer()))
	}
	return all
}

// admit says whether a call is answered, and what to do when it was.
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

// observe counts what became of a call.
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

// match is the guest of a listener, nil while there is none. It looks for one only where guests have come or gone
// since.
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

// Type is what package notify asks of the guest.
func (e *entry) Type(fd int) uint32 {
	if g := e.guest.Load(); g != nil {
		return g.view.Type(fd)
	}
	return 0
}

// Tree is, too.
func (e *entry) Tree(c *notify.Caller, fstype, options string) (int, error) {
	if g := e.guest.Load(); g != nil {
		return g.tree(c, fstype, options)
	}
	return -1, notify.ErrPassOn
}

// kept is a listener as the holder is to keep it.
func (e *entry) kept(fd int) holder.Listener {
	return holder.Listener{Key: e.key, FD: fd, Word: e.word.String()}
}
