package notify

import (
	"os"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// NewArena makes a file in memory with room for n requests. It outlives each process that maps it. *os.SyscallError, or
// the error of the truncate.
func NewArena(n int) (*os.File, error) {
	fd, err := unix.MemfdCreate("requests", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "requests")
	if err := f.Truncate(int64(n) * int64(unsafe.Sizeof(Request{}))); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// MapArena maps the requests of an arena for the life of this process. *os.SyscallError, or the error of the stat.
func MapArena(f *os.File) ([]*Request, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	b, err := unix.Mmap(int(f.Fd()), 0, int(st.Size()), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	var slots []*Request
	for at := 0; at+int(unsafe.Sizeof(Request{})) <= len(b); at += int(unsafe.Sizeof(Request{})) {
		slots = append(slots, (*Request)(unsafe.Pointer(&b[at])))
	}
	return slots, nil
}

// Pending reports that a slot holds a request that was received and not answered.
func Pending(slots []*Request) bool {
	return slices.ContainsFunc(slots, func(r *Request) bool { return r.ID != 0 })
}
