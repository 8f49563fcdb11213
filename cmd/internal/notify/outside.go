package notify

import (
	"encoding/binary"
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// Additions to Serve for a server of many guests.

// admit calls Supervisor.Admit.
func (s *Supervisor) admit() (leave func(), ok bool) {
	if s.Admit == nil {
		return func() {}, true
	}
	return s.Admit()
}

func (s *Supervisor) observe(passedOn bool) {
	if s.Observe != nil {
		s.Observe(passedOn)
	}
}

// Waits reports that a call from a listener still waits for its answer.
func Waits(listener int, id uint64) bool { return valid(listener, id) }

// Once finds the answer to one call for another process, which received the call and sends the answer. The caller keeps
// the listener.
func (s *Supervisor) Once(listener int, r *Request) (errno unix.Errno, passOn bool) {
	a := s.once(listener, r)
	s.observe(a.passOn)
	return a.errno, a.passOn
}

func (s *Supervisor) once(listener int, r *Request) answer {
	leave, ok := s.admit()
	if !ok {
		return pass
	}
	// procFD opens /proc before any thread is in another mount namespace.
	procFD()
	fd, err := unix.FcntlInt(uintptr(listener), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		leave()
		return pass
	}
	c := &Caller{server: s.at(nil, fd), Request: *r, proc: -1}
	done := make(chan answer, 1)
	go func() {
		defer leave()
		defer unix.Close(fd)
		a := c.answer()
		c.close()
		done <- a
	}()
	select {
	case a := <-done:
		return a
	case <-time.After(s.timeout()):
		if c.claim() {
			return pass
		}
		// The call was acted upon.
		return <-done
	}
}

// ResponseSize is the size of struct seccomp_notif_resp.
const ResponseSize = 24

// PutResponse writes struct seccomp_notif_resp.
func PutResponse(b []byte, id uint64, errno unix.Errno, passOn bool) {
	clear(b)
	binary.NativeEndian.PutUint64(b, id)
	if passOn {
		binary.NativeEndian.PutUint32(b[20:], unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE)
		return
	}
	binary.NativeEndian.PutUint32(b[16:], uint32(-int32(errno)))
}

// Signals of Go's scheduler interrupt a long getxattr or fstatfs of a view: the view's server then answers EINTR.

func getxattr(path, name string, b []byte) (n int, err error) {
	for n, err = unix.Getxattr(path, name, b); errors.Is(err, unix.EINTR); {
		n, err = unix.Getxattr(path, name, b)
	}
	return n, err
}

func fstatfs(fd int, st *unix.Statfs_t) (err error) {
	for err = unix.Fstatfs(fd, st); errors.Is(err, unix.EINTR); {
		err = unix.Fstatfs(fd, st)
	}
	return err
}
