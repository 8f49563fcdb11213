package notify

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// statfs answers for views. It passes everything else on, errors too: the kernel finds the same.
func (c *Caller) statfs(a *arch, what call) answer {
	into := c.Args[1]
	wide := what == callStatfs64 || what == callFstatfs64
	if wide {
		if !slices.Contains(a.sizes, c.Args[1]) {
			return pass
		}
		into = c.Args[2]
	}
	var fd int
	var err error
	if what == callFstatfs || what == callFstatfs64 {
		fd, err = c.Open("fd/"+strconv.Itoa(int(int32(c.Args[0]))), unix.O_PATH)
	} else {
		fd, err = c.lookUp(c.Args[0])
	}
	if err != nil {
		return pass
	}
	defer unix.Close(fd)
	var st unix.Statfs_t
	if !c.ask(fd, &st) {
		return pass
	}
	if err := c.writeMemory(into, encode(a, wide, &st)); err != nil {
		return refuse(err)
	}
	return answer{}
}

// ask asks a view for its statfs. False for anything but a view, and if too many calls ask.
func (c *Caller) ask(fd int, st *unix.Statfs_t) (ok bool) {
	if !c.server.enter(c.server.asking) {
		return false
	}
	defer func() { <-c.server.asking }()
	var kind uint32
	c.server.watched(c, "", func() {
		kind = c.server.Guest.Type(fd)
		ok = kind != 0 && fstatfs(fd, st) == nil
	})
	st.Type = int64(kind)
	return ok
}

// lookUp opens the target of a path in the caller's memory. It tries the kernel's cache first, which no file system can
// delay.
func (c *Caller) lookUp(at uint64) (fd int, err error) {
	name, err := c.text(at, maxPath)
	if err != nil {
		return -1, err
	}
	c.cached = true
	if fd, err = c.resolve(name); err == nil {
		return fd, nil
	}
	c.cached = false
	if !c.server.withRoom(c, name, func() { fd, err = c.resolve(name) }) {
		return -1, ErrPassOn
	}
	return fd, err
}

// statfs32 is struct compat_statfs of include/asm-generic/compat.h, on i386 and ARM.
type statfs32 struct {
	Type, Bsize, Blocks, Bfree, Bavail, Files, Ffree uint32
	Fsid                                             [2]int32
	Namelen, Frsize, Flags                           uint32
	Spare                                            [4]uint32
}

// statfs64 is struct compat_statfs64, packed.
type statfs64 struct {
	Type, Bsize                         uint32
	Blocks, Bfree, Bavail, Files, Ffree uint64
	Fsid                                [2]int32
	Namelen, Frsize, Flags              uint32
	Spare                               [4]uint32
}

// encode returns the bytes that the kernel would write for a caller of an architecture.
func encode(a *arch, wide bool, st *unix.Statfs_t) []byte {
	var b bytes.Buffer
	// struct statfs of a 64-bit architecture.
	var x any = st
	switch {
	case wide:
		x = &statfs64{
			uint32(st.Type), uint32(st.Bsize), st.Blocks, st.Bfree, st.Bavail, st.Files, st.Ffree, st.Fsid.Val,
			uint32(st.Namelen), uint32(st.Frsize), uint32(st.Flags), [4]uint32{},
		}
	case a.narrow:
		x = &statfs32{
			uint32(st.Type), uint32(st.Bsize), uint32(st.Blocks), uint32(st.Bfree), uint32(st.Bavail), uint32(st.Files),
			uint32(st.Ffree),
			st.Fsid.Val, uint32(st.Namelen), uint32(st.Frsize), uint32(st.Flags), [4]uint32{},
		}
	}
	// It cannot fail: all fields have a fixed size.
	binary.Write(&b, binary.LittleEndian, x)
	return b.Bytes()
}
