package kit

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// events waits, with poll and with inotify, for what is provoked on the host: a process comes or goes.
func (w *worker) events() {
	file := filepath.Join(w.EventsDir, "events/cgroup.events")
	fd := w.open(file, unix.O_RDONLY)
	if fd < 0 {
		return
	}
	defer unix.Close(fd)
	watch, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err == nil {
		defer unix.Close(watch)
		err = w.op("watch", func() error { _, err := unix.InotifyAddWatch(watch, file, unix.IN_MODIFY); return err })
	}
	if err != nil {
		w.fail("event", "cannot watch: %v", err)
		return
	}
	pread(fd) // an event that was not read counts for poll
	for n := 0; w.goesOn(); n++ {
		ReadInotify(watch) // what came late of the last one
		to := []string{"events", "idle"}[n%2]
		done := make(chan error, 1)
		go func() {
			time.Sleep(time.Duration(rand.IntN(5000)) * time.Microsecond) // the waiter may or may not wait by then
			done <- w.Unified.Attach(w.Path+"/"+to, w.stirrer)
		}()
		w.op("event", func() error { return await(fd, watch, to == "events", w.tolerant) })
		if err := <-done; err != nil {
			w.fail("event", "cannot provoke one: %v", err)
			return
		}
	}
}

// await waits until poll and the watch have told of an event and the file shows it.
// Before Linux 6.9 a view that the daemon serves wakes no watch (deaf).
func await(fd, watch int, want, deaf bool) error {
	polled, watched := false, deaf
	for deadline := time.Now().Add(EventPatience); !polled || !watched; {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLPRI}, {Fd: int32(watch), Events: unix.POLLIN}}
		if polled {
			fds[0].Fd = -1
		}
		if watched {
			fds[1].Fd = -1
		}
		n, err := unix.Poll(fds, max(0, int(time.Until(deadline).Milliseconds())))
		switch {
		case errors.Is(err, unix.EINTR): // Go's own signals
			continue
		case err != nil:
			return err
		case n == 0:
			text, err := pread(fd)
			return fmt.Errorf("populated %t did not come: by poll %t, by inotify %t, the file says %q, %v", want, polled,
				watched, text, err)
		}
		if fds[1].Revents != 0 {
			ReadInotify(watch)
			watched = true
		}
		if fds[0].Revents == unix.POLLERR { // all that the kernel says of an aborted request
			return unix.ECONNABORTED
		}
		if fds[0].Revents != 0 {
			text, err := pread(fd)
			if err != nil {
				return err
			}
			if polled = strings.Contains(text, "populated 1") == want; !polled {
				time.Sleep(time.Millisecond) // woken for nothing, as may be after a restart
			}
		}
	}
	return nil
}
