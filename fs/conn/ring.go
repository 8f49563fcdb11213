package conn

import (
	"errors"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ring is an io_uring (io_uring_setup(2)) with submission entries of 128 bytes. Only the thread that made it uses it,
// because the kernel completes a command by work for the thread that submitted it.
type ring struct {
	fd              int    // immutable
	room            uint32 // immutable: submissions at once
	queues, entries []byte // immutable; both queues in one mapping, and the submission entries

	sqTail, cqHead, cqTail *uint32 // immutable
	sqMask, cqMask         uint32  // immutable
	completions            int     // immutable; their offset in queues

	tail, due uint32 // entries made, and those of them that are not submitted yet
}

// Constants of include/uapi/linux/io_uring.h.
const (
	setupSQE128       = 1 << 10 // Linux 5.19
	setupSingleIssuer = 1 << 12 // Linux 6.0
	setupDeferTaskrun = 1 << 13 // Linux 6.1
	featSingleMmap    = 1 << 0
	enterGetEvents    = 1 << 0
	registerFiles     = 2
	offSubmissions    = 0x10000000

	fixedFile   = 1 << 0 // IOSQE_FIXED_FILE
	opRead      = 22
	opURingCmd  = 46
	sqeSize     = int(unsafe.Sizeof(submission{}))
	completionN = 16 // bytes of a completion
)

// ringParams is struct io_uring_params.
type ringParams struct {
	sqEntries, cqEntries, flags, _, _, features, _ uint32
	_                                              [3]uint32
	sqHead, sqTail, sqMask, _, _, _, sqArray, _    uint32
	_                                              uint64
	cqHead, cqTail, cqMask, _, _, cqes, _, _       uint32
	_                                              uint64
}

// submission is struct io_uring_sqe, with struct fuse_uring_cmd_req of include/uapi/linux/fuse.h as the command's data.
type submission struct {
	opcode, flags  uint8
	_              uint16
	fd             int32
	off            uint64 // or the command's code in the lower half
	addr           uint64
	length         uint32
	_              uint32
	data           uint64 // returned with the completion
	_              uint64
	_, reqCommitID uint64
	reqQueue       uint16
	_              [62]byte
}

// newRing makes a ring. EPERM where a sysctl or a filter denies it, ENOSYS before Linux 5.1, EINVAL before 6.1, else
// the kernel's error.
func newRing(entries int) (*ring, error) {
	p := ringParams{flags: setupSQE128 | setupSingleIssuer | setupDeferTaskrun}
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, uintptr(entries), uintptr(unsafe.Pointer(&p)), 0)
	if errno != 0 {
		return nil, os.NewSyscallError("io_uring_setup", errno)
	}
	r := &ring{fd: int(fd)}
	if p.features&featSingleMmap == 0 {
		r.close()
		return nil, errors.New("cannot map a ring: it has no IORING_FEAT_SINGLE_MMAP")
	}
	if err := r.mmap(&p); err != nil {
		r.close()
		return nil, os.NewSyscallError("mmap", err)
	}
	r.sqTail, r.cqHead, r.cqTail = r.word(p.sqTail), r.word(p.cqHead), r.word(p.cqTail)
	r.room = p.sqEntries
	r.sqMask, r.cqMask, r.completions = *r.word(p.sqMask), *r.word(p.cqMask), int(p.cqes)
	for i := range p.sqEntries {
		*r.word(p.sqArray + 4*i) = i
	}
	return r, nil
}

func (r *ring) mmap(p *ringParams) (err error) {
	const prot, flags = unix.PROT_READ | unix.PROT_WRITE, unix.MAP_SHARED | unix.MAP_POPULATE
	size := max(p.sqArray+4*p.sqEntries, p.cqes+completionN*p.cqEntries)
	if r.queues, err = unix.Mmap(r.fd, 0, int(size), prot, flags); err != nil {
		return err
	}
	r.entries, err = unix.Mmap(r.fd, offSubmissions, sqeSize*int(p.sqEntries), prot, flags)
	return err
}

func (r *ring) word(offset uint32) *uint32 { return (*uint32)(pointer(r.queues, int(offset))) }

// register gives the ring files, which its submissions name by their index.
func (r *ring) register(files ...int32) error {
	_, _, errno := unix.Syscall6(unix.SYS_IO_URING_REGISTER, uintptr(r.fd), registerFiles,
		uintptr(unsafe.Pointer(&files[0])), uintptr(len(files)), 0, 0)
	if errno != 0 {
		return os.NewSyscallError("io_uring_register", errno)
	}
	return nil
}

// add returns a new submission. It submits earlier ones if there is no room; an error of that shows again in enter.
func (r *ring) add() *submission {
	if r.due == r.room {
		_ = r.enter(0)
	}
	s := (*submission)(pointer(r.entries, int(r.tail&r.sqMask)*sqeSize))
	*s = submission{}
	r.tail++
	r.due++
	return s
}

// enter submits what was added, and waits for a number of completions.
func (r *ring) enter(wait int) error {
	atomic.StoreUint32(r.sqTail, r.tail)
	n, _, errno := unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(r.fd), uintptr(r.due), uintptr(wait),
		enterGetEvents, 0, 0)
	if errno != 0 {
		return os.NewSyscallError("io_uring_enter", errno)
	}
	r.due -= uint32(n)
	return nil
}

// next returns a completion: the submission's data, and its result.
func (r *ring) next() (data uint64, result int32, ok bool) {
	head := *r.cqHead
	if head == atomic.LoadUint32(r.cqTail) {
		return 0, 0, false
	}
	at := r.completions + int(head&r.cqMask)*completionN
	data, result = *(*uint64)(pointer(r.queues, at)), *(*int32)(pointer(r.queues, at+8))
	atomic.StoreUint32(r.cqHead, head+1)
	return data, result, true
}

// close ends the ring. The kernel cancels its commands afterwards, by a worker of its own.
func (r *ring) close() {
	for _, m := range [][]byte{r.entries, r.queues} {
		if m != nil {
			_ = unix.Munmap(m)
		}
	}
	unix.Close(r.fd)
}
