package integration

import (
	"runtime"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// The least of io_uring (include/uapi/linux/io_uring.h) that opens a file.
const (
	uringOpOpenat     = 18
	uringOffSQRing    = 0
	uringOffCQRing    = 0x8000000
	uringOffSQEs      = 0x10000000
	uringEnterGetEvts = 1
)

type uringSQOffsets struct {
	head, tail, ringMask, ringEntries, flags, dropped, array, resv1 uint32
	userAddr                                                        uint64
}

type uringCQOffsets struct {
	head, tail, ringMask, ringEntries, overflow, cqes, flags, resv1 uint32
	userAddr                                                        uint64
}

type uringParams struct {
	sqEntries, cqEntries, flags, sqThreadCPU, sqThreadIdle, features, wqFD uint32
	resv                                                                   [3]uint32
	sq                                                                     uringSQOffsets
	cq                                                                     uringCQOffsets
}

type uringSQE struct {
	opcode, flags uint8
	ioprio        uint16
	fd            int32
	off, addr     uint64
	len, opFlags  uint32
	userData      uint64
	pad           [3]uint64
}

// uringOpen opens a file through io_uring and closes it. Where io_uring is not to be had (ENOSYS, or EPERM of
// kernel.io_uring_disabled), it opens it the ordinary way, so that the attempt means the same.
func uringOpen(path string, flags int) error {
	var p uringParams
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&p)), 0)
	if errno != 0 {
		return kit.WithFile(path, flags, func(int) error { return nil })
	}
	defer unix.Close(int(fd))
	sq, err := unix.Mmap(int(fd), uringOffSQRing, int(p.sq.array+p.sqEntries*4), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	defer unix.Munmap(sq)
	cq, err := unix.Mmap(int(fd), uringOffCQRing, int(p.cq.cqes+p.cqEntries*16), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	defer unix.Munmap(cq)
	sqes, err := unix.Mmap(int(fd), uringOffSQEs, int(p.sqEntries)*64, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	defer unix.Munmap(sqes)
	name := append([]byte(path), 0)
	var pin runtime.Pinner
	pin.Pin(&name[0])
	defer pin.Unpin()
	*(*uringSQE)(unsafe.Pointer(&sqes[0])) = uringSQE{
		opcode: uringOpOpenat, fd: unix.AT_FDCWD, addr: uint64(uintptr(unsafe.Pointer(&name[0]))), opFlags: uint32(flags),
	}
	*(*uint32)(unsafe.Pointer(&sq[p.sq.array])) = 0
	*(*uint32)(unsafe.Pointer(&sq[p.sq.tail])) = 1
	done := func() bool { return atomic.LoadUint32((*uint32)(unsafe.Pointer(&cq[p.cq.tail]))) != 0 }
	for submit := uintptr(1); !done(); submit = 0 { // a signal, Go's own, ends the wait early
		_, _, errno := unix.Syscall6(unix.SYS_IO_URING_ENTER, fd, submit, 1, uringEnterGetEvts, 0, 0)
		if errno != 0 && errno != unix.EINTR {
			return errno
		}
	}
	res := *(*int32)(unsafe.Pointer(&cq[p.cq.cqes+8]))
	if res < 0 {
		return unix.Errno(-res)
	}
	unix.Close(int(res))
	return nil
}
