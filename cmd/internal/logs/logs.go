// Package logs writes a program's log to standard error without ever waiting for the reader.
//
// # Words
//
// A line is the argument of one Write. The queue holds lines until the descriptor accepts them. A line is lost when the
// queue has no room for it, or when the descriptor refuses it.
//
// # What always holds
//
//   - Write never waits, and never fails: a slow reader costs lines, not time.
//   - A reader that is gone ends nothing: no SIGPIPE, no error.
//   - Lost lines are counted. The count is written in their position, as soon as the descriptor accepts lines again.
//
// Writer.mu is a leaf.
package logs

import (
	"errors"
	"fmt"
	"log"
	"os"
	"os/signal"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// queueBytes bounds the waiting lines. A process has one queue.
const queueBytes = 256 << 10

// Writer is an io.Writer for one descriptor. Its methods may be called from any goroutine.
type Writer struct {
	fd   int                   // immutable
	told func(n uint64) []byte // immutable; the line that reports n lost lines
	wake chan struct{}         // holds one value while there is something to write
	lost uint64                // of the writing goroutine alone: lost lines not reported yet

	mu      sync.Mutex
	queue   []line        // guarded by mu
	bytes   int           // guarded by mu; of the queue and of the line being written
	dropped uint64        // guarded by mu; lost lines behind the queue's last
	idle    chan struct{} // guarded by mu; closed when all is written, nil without a waiter
}

// line is one line, and the number of lines lost before it.
type line struct {
	text   []byte
	before uint64
}

// New makes a writer for a descriptor, which the caller keeps.
func New(fd int, told func(n uint64) []byte) *Writer {
	w := &Writer{fd: fd, told: told, wake: make(chan struct{}, 1)}
	go w.run()
	return w
}

// Write queues a line, or counts it as lost. It never fails.
func (w *Writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.bytes > 0 && w.bytes+len(p) > queueBytes {
		w.dropped++
		return len(p), nil
	}
	w.bytes += len(p)
	w.queue = append(w.queue, line{append([]byte(nil), p...), w.dropped})
	w.dropped = 0
	select {
	case w.wake <- struct{}{}:
	default:
	}
	return len(p), nil
}

// Flush waits until everything is written, or until the bound, before the process ends.
func (w *Writer) Flush(bound time.Duration) {
	w.mu.Lock()
	if w.bytes == 0 {
		w.mu.Unlock()
		return
	}
	if w.idle == nil {
		w.idle = make(chan struct{})
	}
	idle := w.idle
	w.mu.Unlock()
	select {
	case <-idle:
	case <-time.After(bound):
	}
}

func (w *Writer) run() {
	for range w.wake {
		// The descriptor has accepted the last line.
		taken := true
		for {
			l, ok := w.next()
			if !ok {
				break
			}
			w.lost += l.before
			w.tell(taken)
			if taken = w.put(l.text); !taken {
				w.lost++
			}
			w.done(len(l.text))
		}
		w.tell(taken)
	}
}

// next removes the oldest line from the queue.
func (w *Writer) next() (l line, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.queue) == 0 {
		w.lost += w.dropped
		// The assignment frees the array, too.
		w.queue, w.dropped = nil, 0
		return line{}, false
	}
	l = w.queue[0]
	w.queue = w.queue[1:]
	return l, true
}

// done returns the room of a line.
func (w *Writer) done(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.bytes -= n; w.bytes == 0 && w.idle != nil {
		close(w.idle)
		w.idle = nil
	}
}

// tell reports the number of lost lines if the descriptor accepts them again.
func (w *Writer) tell(taken bool) {
	if taken && w.lost > 0 && w.put(w.told(w.lost)) {
		w.lost = 0
	}
}

// put writes a line, and reports whether the descriptor accepted all of it. It may wait for the reader for ever. It
// bypasses os.File, which ends the process if the reader of standard error is gone (epipecheck, os/file_unix.go).
func (w *Writer) put(p []byte) bool {
	for len(p) > 0 {
		n, err := unix.Write(w.fd, p)
		switch {
		case n > 0:
			p = p[n:]
		case errors.Is(err, unix.EAGAIN):
			// Another process with the same open file has set O_NONBLOCK.
			_, _ = unix.Poll([]unix.PollFd{{Fd: int32(w.fd), Events: unix.POLLOUT}}, -1)
		case !errors.Is(err, unix.EINTR):
			return false
		}
	}
	return true
}

// ToStderr has logrus, and users of Go's own log, write to standard error by a Writer, and keeps this process alive
// when a pipe that it writes to has no reader. logrus.Exit ends the process as os.Exit does, after a Flush with this
// bound.
func ToStderr(bound time.Duration) *Writer {
	// Not signal.Ignore: the programs that this process starts would inherit it.
	signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE)
	w := New(unix.Stderr, lostLine)
	logrus.SetOutput(w)
	log.SetOutput(w)
	logrus.RegisterExitHandler(func() { w.Flush(bound) })
	return w
}

// lostLine formats the report of lost lines as a line of the log.
func lostLine(n uint64) []byte {
	e := logrus.NewEntry(logrus.StandardLogger())
	e.Time, e.Level = time.Now(), logrus.WarnLevel
	e.Message = fmt.Sprintf("%d lines of this log are lost: whoever reads it is gone or does not keep up", n)
	e.Data = logrus.Fields{"count": n}
	text, err := e.Logger.Formatter.Format(e)
	if err != nil {
		return nil
	}
	return text
}
