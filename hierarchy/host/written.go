package host

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A FUSE request may carry less than its caller wrote: the bytes beyond the pages of a request come in another one,
// and those beyond RLIMIT_FSIZE never come. The caller waits in its system call for the answer, so the call itself
// has the full text.

// FileSizeLimit returns a thread's RLIMIT_FSIZE, unix.RLIM_INFINITY if it has none or it is unknown.
func FileSizeLimit(tid int) uint64 {
	var limit unix.Rlimit
	if tid <= 0 || unix.Prlimit(tid, unix.RLIMIT_FSIZE, nil, &limit) != nil {
		return unix.RLIM_INFINITY
	}
	return limit.Cur
}

// Written returns the bytes that a thread writes in its present system call, up to limit bytes. False in any call
// but write, writev and their relatives of the server's own architecture; for longer writes; and without the right
// to read the thread.
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

// writtenPieces returns the addresses and lengths of a thread's write.
func writtenPieces(tid int) ([]unix.RemoteIovec, bool) {
	text, ok := currentCall(tid)
	if !ok {
		return nil, false
	}
	var nr, fd, address, count uint64
	if n, _ := fmt.Sscanf(text, "%d %v %v %v", &nr, &fd, &address, &count); n != 4 {
		// In no system call.
		return nil, false
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

// currentCall returns the system call in which a thread waits, from /proc. A thread that has sent a request is about
// to wait, but may still be running: then it is read again. False if it does not wait within a second.
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
