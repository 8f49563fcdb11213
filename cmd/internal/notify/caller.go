package notify

import (
	"bytes"
	"errors"
	"os"
	"slices"
	"strconv"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Caller is a thread waiting for the answer to its call.
type Caller struct {
	Request // as it was received
	server  *server
	proc    int  // O_PATH of /proc/<tid>: an open below it reaches this caller, or fails
	cached  bool // path lookup uses the kernel's cache only, so no file system delays it
	again   bool // an earlier answer may not have reached the caller

	slot   *Request    // of an open that is looked at
	asked  opening     // its arguments
	looked atomic.Bool // they were read

	about string  // text of /proc/<tid>/status; "" before it is read
	has   *rights // over files; nil before they are read

	settled atomic.Bool // the call is acted upon, or given up
	acted   bool        // a change was made for it
}

// claim reports that this caller is the first to settle the call.
func (c *Caller) claim() bool { return c.settled.CompareAndSwap(false, true) }

// act claims the call before a change. False if the call was given up, or if the caller waits no more.
func (c *Caller) act() bool {
	if !c.Waits() || !c.claim() {
		return false
	}
	c.acted = true
	return true
}

// Waits reports that the caller still waits for this answer.
func (c *Caller) Waits() bool { return valid(c.server.fd, c.ID) }

// Open opens a file of /proc/<tid>. ESRCH after the end of the caller.
func (c *Caller) Open(name string, flags int) (int, error) {
	fd, err := unix.Openat(c.proc, name, flags|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	return fd, nil
}

func (c *Caller) read(name string) ([]byte, error) {
	fd, err := c.Open(name, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	var b bytes.Buffer
	_, err = b.ReadFrom(f)
	return b.Bytes(), err
}

// status returns the text of the caller's status file. Credentials and ids in it do not change while the caller waits.
func (c *Caller) status() (string, error) {
	if c.about == "" {
		b, err := c.read("status")
		if err != nil {
			return "", err
		}
		c.about = string(b)
	}
	return c.about, nil
}

// ownProc reports that /proc shows this process's pid namespace, which the callers' numbers are in. A sandbox may have
// bound the /proc of another namespace. There, a caller's number would be a stranger's, and we would act with the
// stranger's rights and in its mount namespace.
func ownProc() bool {
	self, err := os.Readlink("/proc/self")
	return err == nil && self == strconv.Itoa(os.Getpid())
}

// hold opens the caller's directory in /proc, and then checks the call's id: while the caller waits, its number is not
// reused.
func (c *Caller) hold() error {
	if c.Tid == 0 || !ownProc() {
		return unix.ESRCH
	}
	var err error
	if c.proc, err = unix.Open("/proc/"+strconv.Itoa(int(c.Tid)),
		unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return err
	}
	if !c.Waits() {
		return unix.ESRCH
	}
	return nil
}

func (c *Caller) close() {
	if c.proc >= 0 {
		unix.Close(c.proc)
	}
}

// answer finds the answer to the call.
func (c *Caller) answer() answer {
	a, what := find(c.Arch, c.Nr)
	switch what {
	case callOpen, callOpenat, callOpenat2:
		return c.open(what)
	}
	if a == nil || c.hold() != nil {
		return pass
	}
	switch what {
	case callStatfs, callFstatfs, callStatfs64, callFstatfs64:
		return c.statfs(a, what)
	case callMount:
		return c.mount()
	case callFsopen:
		return c.fsopen()
	}
	return pass
}

// pageSize is the granularity of readable memory. A value below the kernel's is harmless.
const pageSize = 4096

// usualText exceeds the length of most strings.
const usualText = 192

// text reads a string of at most max bytes, terminator included. EFAULT, or ENAMETOOLONG for a longer one.
func (c *Caller) text(at uint64, max int) (string, error) {
	b := make([]byte, 0, min(max, usualText))
	for len(b) < max {
		if len(b) == cap(b) {
			b = slices.Grow(b, max-len(b))
		}
		from := at + uint64(len(b))
		n := min(int(pageSize-from%pageSize), max-len(b), cap(b)-len(b))
		part := b[len(b) : len(b)+n]
		if err := c.readMemory(from, part); err != nil {
			return "", err
		}
		if end := bytes.IndexByte(part, 0); end >= 0 {
			// Otherwise the text came from another process.
			if !c.Waits() {
				return "", unix.ESRCH
			}
			return string(b[:len(b)+end]), nil
		}
		b = b[:len(b)+n]
	}
	return "", unix.ENAMETOOLONG
}

func (c *Caller) readMemory(at uint64, into []byte) error {
	return c.memory(unix.ProcessVMReadv, at, into)
}

// writeMemory writes into the memory of a waiting caller. Not by /proc/<pid>/mem, which also writes to read-only pages.
func (c *Caller) writeMemory(at uint64, from []byte) error {
	write := func(pid int, local []unix.Iovec, remote []unix.RemoteIovec, flags uint) (int, error) {
		if !c.Waits() {
			return 0, unix.ESRCH
		}
		return unix.ProcessVMWritev(pid, local, remote, flags)
	}
	return c.memory(write, at, from)
}

// memory copies between a caller's memory and a buffer. The memory may map a file of the guest's own file system, which
// can block the access.
func (c *Caller) memory(move func(int, []unix.Iovec, []unix.RemoteIovec, uint) (int, error), at uint64,
	buffer []byte) (err error) {
	local := []unix.Iovec{{Base: &buffer[0]}}
	local[0].SetLen(len(buffer))
	remote := []unix.RemoteIovec{{Base: uintptr(at), Len: len(buffer)}}
	if c.slot != nil && !c.looked.Load() {
		// The next leader watches it.
		return whole(move(int(c.Tid), local, remote, 0))(len(buffer))
	}
	c.server.watched(c, "", func() { err = whole(move(int(c.Tid), local, remote, 0))(len(buffer)) })
	return err
}

// whole turns a partial transfer into EFAULT.
func whole(n int, err error) func(want int) error {
	return func(want int) error {
		if err == nil && n < want {
			err = unix.EFAULT
		}
		return err
	}
}

// ids returns the caller's process and thread id in its own pid namespace.
func (c *Caller) ids() (tgid, tid string) {
	status, err := c.status()
	if err != nil {
		return "", ""
	}
	return statusField(status, "NStgid:", -1), statusField(status, "NSpid:", -1)
}

// errElsewhere reports a path that only the caller itself can follow.
var errElsewhere = errors.New("the path leads where only the caller can follow")
