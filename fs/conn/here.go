package conn

import (
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Handing a slow request to another goroutine wakes a second thread, on another processor, and that costs more than
// most slow requests take. So the serving goroutine handles a slow request itself as long as no other one runs. A
// watchdog limits that: if the request blocks, another goroutine serves the connection meanwhile, and from then on.

// patience is the time after which another goroutine serves the connection.
const patience = 200 * time.Microsecond

// maxWatchdogs bounds the watchdogs of this process. One is in use for at most patience, so a few serve many
// connections; a request that finds none runs on a goroutine of its own.
const maxWatchdogs = 8

// watchdog is a timer of the kernel with a goroutine that waits for it. A timer of Go's runtime would wake the thread
// that polls the network each time it is set (wakeNetPoller in runtime/proc.go of Go 1.26).
type watchdog struct {
	file    *os.File               // immutable
	raw     syscall.RawConn        // immutable
	guarded atomic.Pointer[server] // the server to replace, nil when the request has ended in time
}

// spareWatchdogs are the unused watchdogs.
var spareWatchdogs struct {
	mu   sync.Mutex
	all  []*watchdog // guarded by mu
	made int         // guarded by mu
}

// borrowWatchdog returns nil if all are in use or the process has no descriptor left.
func borrowWatchdog() *watchdog {
	spareWatchdogs.mu.Lock()
	defer spareWatchdogs.mu.Unlock()
	if last := len(spareWatchdogs.all) - 1; last >= 0 {
		w := spareWatchdogs.all[last]
		spareWatchdogs.all = spareWatchdogs.all[:last]
		return w
	}
	if spareWatchdogs.made >= maxWatchdogs {
		return nil
	}
	file, raw, err := newTimer()
	if err != nil {
		return nil
	}
	w := &watchdog{file: file, raw: raw}
	spareWatchdogs.made++
	go w.run()
	return w
}

// giveBack keeps the watchdog for reuse.
func (w *watchdog) giveBack() {
	spareWatchdogs.mu.Lock()
	defer spareWatchdogs.mu.Unlock()
	spareWatchdogs.all = append(spareWatchdogs.all, w)
}

// run replaces the serving goroutine each time that the timer expires. An expiry that comes late, in the next use of
// the watchdog, replaces one too early, which is harmless.
func (w *watchdog) run() {
	var ticks [8]byte
	for {
		_ = w.raw.Read(func(fd uintptr) bool {
			_, err := unix.Read(int(fd), ticks[:])
			return err != unix.EAGAIN
		})
		if s := w.guarded.Swap(nil); s != nil {
			s.replace()
			w.giveBack()
		}
	}
}

// set sets the timer; 0 stops it.
func (w *watchdog) set(d time.Duration) {
	_ = w.raw.Control(func(fd uintptr) { _ = setTimer(fd, d) })
}

// guard replaces the server's goroutine after patience.
func (w *watchdog) guard(s *server) {
	w.guarded.Store(s)
	w.set(patience)
}

// end ends the guard and reports that the goroutine was replaced.
func (w *watchdog) end(s *server) (replaced bool) {
	if !w.guarded.CompareAndSwap(s, nil) {
		return true
	}
	w.set(0)
	w.giveBack()
	return false
}

// replace starts another serving goroutine. The replaced one is in a handler and uses nothing of its server but the
// message.
func (s *server) replace() {
	next := newServer(s.c, s.dev)
	next.turns, next.pace = s.turns, s.pace
	next.start()
}

// serveHere handles a slow request on the serving goroutine. False if another one runs or the request has to wait.
func (s *server) serveHere(in []byte) bool {
	c := s.c
	if c.slow.share.due().After(time.Now()) {
		return false
	}
	w := borrowWatchdog()
	if w == nil {
		return false
	}
	r := &slowRequest{body: in, unique: header(in).Unique}
	leave, ok := c.slow.addAlone(r)
	if !ok {
		w.giveBack()
		return false
	}
	w.guard(s)
	reply, took := c.respondSlow(s.m, len(in), leave)
	if s.replaced = w.end(s); !s.replaced {
		s.reply = reply
		c.slow.next(r, took)
		return true
	}
	c.reply(s.dev, reply)
	c.afterPanic(s.m)
	if next := c.slow.next(r, took); next != nil {
		c.runSlow(s.dev, next)
	}
	return true
}
