package state

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A system call of a guest that the kernel stops for the daemon (seccomp user notification, seccomp_unotify(2)) is
// received straight into memory that outlives the receiving process. The kernel marks the call as received and
// copies it in one system call (seccomp_notify_recv), so a process that is killed afterwards leaves all that the
// next one needs to answer it.

// Calls is that memory: a mapped memfd with a page for each listener. One process at a time uses it.
type Calls struct {
	file *os.File
	mem  []byte
}

const (
	callsMagic   = 0x7663_6761_6c6c_7321
	callsVersion = 1
	// MaxListeners is the number of pages for listeners.
	MaxListeners = 4096
	// CallsOfListener is the number of calls in a listener's page.
	CallsOfListener = 49
)

// callsHead is the first page.
type callsHead struct {
	magic   uint64 // atomic
	version uint32
	_       uint32
	life    Lifeline
}

// Call is struct seccomp_notif (include/uapi/linux/seccomp.h), with 80 bytes since Linux 5.0. The kernel requires it
// to be zero before it receives a call into it.
type Call struct {
	ID uint64 // atomic; 0: no call, or an answered one
	_  [72]byte
}

// Pointer returns the call's address, for users of struct seccomp_notif.
func (c *Call) Pointer() unsafe.Pointer { return unsafe.Pointer(c) }

// NewCalls makes the memory. The errors are those of memfd_create, ftruncate and mmap.
func NewCalls() (*Calls, error) {
	fd, err := unix.MemfdCreate("vcgroupfs-calls", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	file := os.NewFile(uintptr(fd), "calls")
	if err := file.Truncate((1 + MaxListeners) * pageSize); err != nil {
		file.Close()
		return nil, err
	}
	c, err := mapCalls(file)
	if err != nil {
		file.Close()
		return nil, err
	}
	c.head().version = callsVersion
	atomic.StoreUint64(&c.head().magic, callsMagic)
	return c, nil
}

// MapCalls maps the memory of an earlier process, and takes over the file. The error says that the file is not such
// memory, or of another version.
func MapCalls(file *os.File) (*Calls, error) {
	c, err := mapCalls(file)
	if err != nil {
		return nil, err
	}
	if h := c.head(); atomic.LoadUint64(&h.magic) != callsMagic || h.version != callsVersion {
		unix.Munmap(c.mem)
		return nil, fmt.Errorf("cannot use the memory of calls: its version is %d, this program's is %d",
			h.version, callsVersion)
	}
	return c, nil
}

func mapCalls(file *os.File) (*Calls, error) {
	st, err := file.Stat()
	if err == nil && st.Size() != (1+MaxListeners)*pageSize {
		err = errors.New("cannot use the memory of calls: it has another size")
	}
	if err != nil {
		return nil, err
	}
	const flags = unix.MAP_SHARED | unix.MAP_NORESERVE
	mem, err := unix.Mmap(int(file.Fd()), 0, int(st.Size()), unix.PROT_READ|unix.PROT_WRITE, flags)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	return &Calls{file, mem}, nil
}

func (c *Calls) head() *callsHead { return (*callsHead)(unsafe.Pointer(&c.mem[0])) }

// File returns the memfd. It remains the Calls'.
func (c *Calls) File() *os.File { return c.file }

// Life returns the lifeline of the process that uses the memory.
func (c *Calls) Life() *Lifeline { return &c.head().life }

// Of returns the calls of a listener by its key, 1 to MaxListeners: received and unanswered ones, and free ones.
func (c *Calls) Of(key uint64) (all []*Call) {
	page := c.mem[key*pageSize:][:pageSize]
	for i := range CallsOfListener {
		all = append(all, (*Call)(unsafe.Pointer(&page[i*int(unsafe.Sizeof(Call{}))])))
	}
	return all
}

// Forget frees the page of a listener that has ended.
func (c *Calls) Forget(key uint64) {
	page := c.mem[key*pageSize:][:pageSize]
	if unix.Madvise(page, unix.MADV_REMOVE) != nil {
		clear(page)
	}
}

// Close unmaps the memory and closes the file.
func (c *Calls) Close() error { return errors.Join(unix.Munmap(c.mem), c.file.Close()) }
