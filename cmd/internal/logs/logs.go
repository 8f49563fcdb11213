// Package logs writes a program's log to standard error without ever waiting for whoever reads it.
//
// # Words
//
// A line is what one Write was given. The queue holds lines until the descriptor takes them. A line is lost when the
// queue has no room for it, or when the descriptor refuses it.
//
// # What always holds
//
//   - Write never waits, and never fails: a reader that is slow costs lines, not time.
//   - A reader that is gone ends nothing: no SIGPIPE, no error.
//   - Lost lines are counted, and the count is written where they would have been, as soon as lines are taken again.
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

// queueBytes bounds the lines that wait. A process has one queue.
const queueBytes = 256 << 10

// Writer is an io.Writer for one descriptor. Its methods may be called from any goroutine.
type Writer struct {
	fd   int                   // immutable
	told func(n uint64) []byte // immutable; the line that says how many were lost
	wake chan struct{}         // holds one, when there is something to write
	lost uint64                // of the writing goroutine alone: lines that are lost and not told of

	mu      sync.Mutex
	queue   []line        // guarded by mu
	bytes   int           // guarded by mu; of the queue and of the line that is being written
	dropped uint64        // guarded by mu; lines lost behind the queue's last
	idle    chan struct{} // guarded by mu; closed when all is written, nil while nobody waits for that
}

// line is one line, and how many were lost before it.
type line struct {
	text   []byte
	before uint64
}

// New makes a writer for a descriptor, which stays the caller's.
func New(fd int, told func(n uint64) []byte) *Writer {
	w := &Writer{fd: fd, told: told, wake: make(chan struct{}, 1)}
	go w.run()
	return w
}

// Write queues a line.
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

// Flush waits until all is written, or until the bound: the process ends next.
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
		taken := true // the descriptor took the last line
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

// next takes the oldest line out of the queue.
func (w *Writer) next() (l line, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.queue) == 0 {
		w.lost += w.dropped
		w.queue, w.dropped = nil, 0 // lets go of the array
		return line{}, false
	}
	l = w.queue[0]
	w.queue = w.queue[1:]
	return l, true
}

// done gives the room of a line back.
func (w *Writer) done(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.bytes -= n; w.bytes == 0 && w.idle != nil {
		close(w.idle)
		w.idle = nil
	}
}

// tell writes how many lines were lost, where the descriptor may take it.
func (w *Writer) tell(taken bool) {
	if taken && w.lost > 0 && w.put(w.told(w.lost)) {
		w.lost = 0
	}
}

// put writes a line, and says whether all of it was taken. It may wait for the reader for ever. It does not go by os.File, which ends
// the process where the reader of standard error is gone (epipecheck, os/file_unix.go).
func (w *Writer) put(p []byte) bool {
	for len(p) > 0 {
		n, err := unix.Write(w.fd, p)
		switch {
		case n > 0:
			p = p[n:]
		case errors.Is(err, unix.EAGAIN): // whoever else has the open file wanted it not to block
			_, _ = unix.Poll([]unix.PollFd{{Fd: int32(w.fd), Events: unix.POLLOUT}}, -1)
		case !errors.Is(err, unix.EINTR):
			return false
		}
	}
	return true
}

// ToStderr has logrus, and whatever uses Go's own log, write to standard error by a Writer, and keeps this process alive when a pipe
// that it writes to has no reader. logrus.Exit ends the process as os.Exit does, after a Flush with this bound; so does Close.
func ToStderr(bound time.Duration) *Writer {
	// Not signal.Ignore: that is inherited by whatever this process starts.
	signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE)
	w := New(unix.Stderr, lostLine)
	logrus.SetOutput(w)
	log.SetOutput(w)
	logrus.RegisterExitHandler(func() { w.Flush(bound) })
	return w
}

// lostLine is the word of lost lines, in the log's format.
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
