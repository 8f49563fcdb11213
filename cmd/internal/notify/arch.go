package notify

import "golang.org/x/sys/unix"

// call names a system call, independent of its number.
type call int

const (
	callStatfs call = iota + 1
	callFstatfs
	callStatfs64 // of 32-bit callers, as the next
	callFstatfs64
	callMount
	callFsopen
	callClone
	callUnshare
	callClone3
	callSetns
	callIoctl
	callAddKey
	callRequestKey
	callKeyctl
	callOpen
	callOpenat
	callOpenat2
)

// arch is an architecture with programs that a kernel runs.
type arch struct {
	audit   uint32 // AUDIT_ARCH_ of include/uapi/linux/audit.h
	numbers map[call]uint32
	foreign uint32 // numbers from here on belong to another table (x32); 0: there is none
	narrow  bool   // 32 bits
	sizes   []uint64
}

// Numbers common to all architectures, since Linux 5.2, 5.3 and 5.6.
const (
	nrFsopen  = 430
	nrClone3  = 435
	nrOpenat2 = 437
)

// find returns the call of a number, and its architecture; 0 for any other call.
func find(audit uint32, nr int32) (*arch, call) {
	for i := range arches {
		a := &arches[i]
		if a.audit != audit {
			continue
		}
		for c, n := range a.numbers {
			if n == uint32(nr) {
				return a, c
			}
		}
	}
	return nil, 0
}

// newMount reports that the flags of mount(2) ask for a new mount, as path_mount decides (fs/namespace.c).
func newMount(flags uint32) bool {
	if flags&mgcMask == unix.MS_MGC_VAL {
		flags &^= mgcMask
	}
	return flags&notNew == 0
}

const (
	mgcMask    = 0xffff0000 // MS_MGC_MSK
	notNewLow  = unix.MS_REMOUNT | unix.MS_BIND | unix.MS_MOVE
	notNewHigh = unix.MS_SHARED | unix.MS_PRIVATE | unix.MS_SLAVE | unix.MS_UNBINDABLE
	notNew     = notNewLow | notNewHigh
)
