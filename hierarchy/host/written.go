package host

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A FUSE request may carry less than its caller wrote: what exceeds the pages of a request comes in another one, and what
// exceeds RLIMIT_FSIZE never comes. The caller waits in its system call until the request is answered, so the call itself
// says what it was about to write.

// FileSizeLimit is a thread's RLIMIT_FSIZE, unix.RLIM_INFINITY where it has none or that cannot be told.
func FileSizeLimit(tid int) uint64 {
	var limit unix.Rlimit
	if tid <= 0 || unix.Prlimit(tid, unix.RLIMIT_FSIZE, nil, &limit) != nil {
		return unix.RLIM_INFINITY
	}
	return limit.Cur
}

// Written is what a thread writes by the system call that it is in, where that is at most limit bytes. False when it is in
// another one than write, writev or their relatives, of the server's own architecture; when it is longer; or when the
// server may not look.
func Written(tid, limit int) ([]byte, bool) {
	pieces, ok := writtenPieces(tid)
	if !ok {
		return nil, false
	}
	total := uint64(0)
	for _, p := range pieces {
		if total += uint64(p.Len); p.Len < 0 || total > uint64(limit) {
			return nil, false
		}
	}
	return readMemory(tid, pieces, int(total))
}

// writtenPieces are the addresses and lengths of what a thread writes.
func writtenPieces(tid int) ([]unix.RemoteIovec, bool) {
	text, ok := currentCall(tid)
	if !ok {
		return nil, false
	}
	var nr, fd, address, count uint64
	if n, _ := fmt.Sscanf(text, "%d %v %v %v", &nr, &fd, &address, &count); n != 4 {
		return nil, false // in none
	}
	switch nr {
	case unix.SYS_WRITE, unix.SYS_PWRITE64:
		return []unix.RemoteIovec{{Base: uintptr(address), Len: int(count)}}, true
	case unix.SYS_WRITEV, unix.SYS_PWRITEV, unix.SYS_PWRITEV2:
	default:
		return nil, false
	}
	if count == 0 || count > maxPieces {
		return nil, false
	}
	pieces := make([]unix.RemoteIovec, count)
	size := int(count) * int(unsafe.Sizeof(pieces[0]))
	raw, ok := readMemory(tid, []unix.RemoteIovec{{Base: uintptr(address), Len: size}}, size)
	if !ok {
		return nil, false
	}
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&pieces[0])), size), raw)
	return pieces, true
}

// currentCall is what /proc says of the system call that a thread waits in. A thread that has sent a request is about to
// wait for its answer, but may not do so yet: then it is looked at again. False when it does not come to that.
func currentCall(tid int) (string, bool) {
	for pause := 10 * time.Microsecond; pause < time.Second; pause *= 2 {
		text, err := readAt(unix.AT_FDCWD, "/proc/"+strconv.Itoa(tid)+"/syscall")
		if err != nil {
			return "", false
		}
		if !strings.HasPrefix(string(text), "running") {
			return string(text), true
		}
		time.Sleep(pause)
	}
	return "", false
}

// maxPieces is UIO_MAXIOV, include/uapi/linux/uio.h.
const maxPieces = 1024

// readMemory reads a thread's memory.
func readMemory(tid int, pieces []unix.RemoteIovec, size int) ([]byte, bool) {
	if size == 0 {
		return nil, true
	}
	data := make([]byte, size)
	local := []unix.Iovec{{Base: &data[0]}}
	local[0].SetLen(size)
	n, err := unix.ProcessVMReadv(tid, local, pieces, 0)
	return data, err == nil && n == size
}
