package notify

import (
	"os"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// NewArena is a file in memory with room for some requests, which outlives each process that has it mapped.
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

// MapArena maps the requests of an arena, for as long as this process lives.
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

// Pending says whether some request was received and not answered, as far as the slots tell.
func Pending(slots []*Request) bool {
	return slices.ContainsFunc(slots, func(r *Request) bool { return r.ID != 0 })
}
