package notify

import (
	"bytes"
	"errors"
	"os"
	"strconv"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Caller is a thread that waits for the answer to its call.
type Caller struct {
	Request // as it was received
	server  *server
	proc    int  // O_PATH of /proc/<tid>: what is opened below it is of this caller, or fails
	cached  bool // paths are looked up in the kernel's cache only, which nobody's file system keeps waiting
	again   bool // the call may have been answered before, without the caller's knowledge

	about string  // of /proc/<tid>/status; "" until it is read, as the next
	has   *rights // over files

	settled atomic.Bool // it was acted upon, or given up
	acted   bool        // something is changed for it
}

// claim says whether this is the first to settle the call.
func (c *Caller) claim() bool { return c.settled.CompareAndSwap(false, true) }

// act is called before something is changed. False: the call was given up, or nobody waits for it any more.
func (c *Caller) act() bool {
	if !c.Waits() || !c.claim() {
		return false
	}
	c.acted = true
	return true
}

// Waits says whether the caller still waits for this answer.
func (c *Caller) Waits() bool { return valid(c.server.fd, c.ID) }

// Open opens a file of /proc/<tid>. ESRCH when the caller has gone.
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

// status reads the caller's credentials and numbers, which do not change while it waits.
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

// ownProc says whether /proc has the numbers of this process's pid namespace, as those of callers are. Where it is another's, which a
// sandbox may have bound, a caller's number there is that of a stranger: with that one's rights and in its mount namespace all would be done.
func ownProc() bool {
	self, err := os.Readlink("/proc/self")
	return err == nil && self == strconv.Itoa(os.Getpid())
}

// hold opens the caller's directory in /proc. The call's id is asked for afterwards: while the caller waits its number is its own.
func (c *Caller) hold() error {
	if c.Tid == 0 || !ownProc() {
		return unix.ESRCH
	}
	var err error
	if c.proc, err = unix.Open("/proc/"+strconv.Itoa(int(c.Tid)), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
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

// answer finds out what the call is to come to.
func (c *Caller) answer() answer {
	a, what := find(c.Arch, c.Nr)
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

// pageSize is the unit in which a caller's memory is there or not. Smaller than some kernels' is no harm.
const pageSize = 4096

// text reads a string of at most max bytes with its end. EFAULT, or ENAMETOOLONG for a longer one.
func (c *Caller) text(at uint64, max int) (string, error) {
	b := make([]byte, 0, max)
	for len(b) < max {
		from := at + uint64(len(b))
		n := min(int(pageSize-from%pageSize), max-len(b))
		part := b[len(b) : len(b)+n]
		if err := c.readMemory(from, part); err != nil {
			return "", err
		}
		if end := bytes.IndexByte(part, 0); end >= 0 {
			if !c.Waits() { // what was read was another's
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

// writeMemory writes into a caller that waits. It is not done by /proc/<pid>/mem, which writes to pages that are read-only.
func (c *Caller) writeMemory(at uint64, from []byte) error {
	write := func(pid int, local []unix.Iovec, remote []unix.RemoteIovec, flags uint) (int, error) {
		if !c.Waits() {
			return 0, unix.ESRCH
		}
		return unix.ProcessVMWritev(pid, local, remote, flags)
	}
	return c.memory(write, at, from)
}

// memory copies between a caller's memory and a buffer. The memory may be a file of the guest's own file system, which keeps who touches
// it waiting.
func (c *Caller) memory(move func(int, []unix.Iovec, []unix.RemoteIovec, uint) (int, error), at uint64, buffer []byte) (err error) {
	local := []unix.Iovec{{Base: &buffer[0]}}
	local[0].SetLen(len(buffer))
	remote := []unix.RemoteIovec{{Base: uintptr(at), Len: len(buffer)}}
	c.server.watched(c, "", func() { err = whole(move(int(c.Tid), local, remote, 0))(len(buffer)) })
	return err
}

// whole makes an error of what was done in part.
func whole(n int, err error) func(want int) error {
	return func(want int) error {
		if err == nil && n < want {
			err = unix.EFAULT
		}
		return err
	}
}

// ids are the caller's numbers as a process and as a thread in its own pid namespace.
func (c *Caller) ids() (tgid, tid string) {
	status, err := c.status()
	if err != nil {
		return "", ""
	}
	return statusField(status, "NStgid:", -1), statusField(status, "NSpid:", -1)
}

// errElsewhere says that a path leads where only the caller itself can follow.
var errElsewhere = errors.New("the path leads where only the caller can follow")
