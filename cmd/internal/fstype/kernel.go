package fstype

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/cilium/ebpf/btf"
)

// call is a kernel function of a system call. Its one argument are the caller's registers.
type call struct {
	symbol   string
	buffer   int  // index of the buffer among the system call's arguments, from 0
	compat   bool // of 32-bit callers
	optional bool // a kernel may lack it
}

// arch describes an architecture's entry to system calls.
type arch struct {
	name      string
	calls     []call
	registers func(compat bool, argument int) (member string, index int) // of struct pt_regs
}

// arches: SYSCALL_DEFINE and COMPAT_SYSCALL_DEFINE of arch/x86/include/asm/syscall_wrapper.h, and their like for arm64,
// make the symbols. The functions are in fs/statfs.c, and arm64's own two in arch/arm64/kernel/sys32.c.
var arches = []arch{
	{"amd64", []call{
		{"__x64_sys_statfs", 1, false, false},
		{"__x64_sys_fstatfs", 1, false, false},
		{"__ia32_compat_sys_statfs", 1, true, true},
		{"__ia32_compat_sys_fstatfs", 1, true, true},
		{"__ia32_compat_sys_statfs64", 2, true, true},
		{"__ia32_compat_sys_fstatfs64", 2, true, true},
	}, func(compat bool, argument int) (string, int) {
		if compat {
			return []string{"bx", "cx", "dx"}[argument], 0
		}
		return []string{"di", "si", "dx"}[argument], 0
	}},
	{"arm64", []call{
		{"__arm64_sys_statfs", 1, false, false},
		{"__arm64_sys_fstatfs", 1, false, false},
		{"__arm64_compat_sys_statfs", 1, true, true},
		{"__arm64_compat_sys_fstatfs", 1, true, true},
		{"__arm64_compat_sys_aarch32_statfs64", 2, true, true},
		{"__arm64_compat_sys_aarch32_fstatfs64", 2, true, true},
	}, func(_ bool, argument int) (string, int) { return "regs", argument }},
}

func thisArch() (arch, error) {
	for _, a := range arches {
		if a.name == runtime.GOARCH {
			return a, nil
		}
	}
	return arch{}, fmt.Errorf("%w %s", errArch, runtime.GOARCH)
}

// argument returns the offset of a call's buffer in struct pt_regs.
func (a arch) argument(k kernel, c call) (int16, error) {
	member, index := a.registers(c.compat, c.buffer)
	at, err := k.offset("pt_regs", member)
	const register = 8
	return int16(at) + int16(index)*register, err
}

// kernel holds the running kernel's types: its own, and those of the module fuse if there is one.
type kernel struct{ own, fuse *btf.Spec }

func kernelTypes(cache *btf.Cache) (k kernel, err error) {
	if k.own, err = cache.Kernel(); err != nil {
		return k, fmt.Errorf("%w: %w", errTypes, err)
	}
	if k.hasFunc("fuse_statfs") {
		return k, nil
	}
	if k.fuse, err = cache.Module("fuse"); err != nil {
		return k, fmt.Errorf("%w: module fuse: %w", errTypes, err)
	}
	return k, nil
}

func (k kernel) hasFunc(name string) bool {
	var f *btf.Func
	return k.own.TypeByName(name, &f) == nil
}

// offset returns the offset of a struct's member, in bytes.
func (k kernel) offset(name, member string) (uint32, error) {
	var s *btf.Struct
	err := k.own.TypeByName(name, &s)
	if errors.Is(err, btf.ErrNotFound) && k.fuse != nil {
		err = k.fuse.TypeByName(name, &s)
	}
	if err != nil {
		return 0, fmt.Errorf("cannot find struct %s among the kernel's types: %w", name, err)
	}
	at, ok := memberIn(s.Members, member)
	if !ok {
		return 0, fmt.Errorf("cannot find %s in struct %s among the kernel's types", member, name)
	}
	return at, nil
}

// memberIn also searches unnamed members.
func memberIn(members []btf.Member, name string) (uint32, bool) {
	for _, m := range members {
		if m.Name == name {
			return m.Offset.Bytes(), true
		}
		var inner []btf.Member
		switch t := btf.UnderlyingType(m.Type).(type) {
		case *btf.Struct:
			inner = t.Members
		case *btf.Union:
			inner = t.Members
		}
		if at, ok := memberIn(inner, name); ok && m.Name == "" {
			return m.Offset.Bytes() + at, true
		}
	}
	return 0, false
}

// offsets are those of the members that programs read.
type offsets struct {
	dentrySB, dentryInode, sbDevice int16
	nodeID                          int32 // from the inode inside struct fuse_inode
}

func offsetsOf(k kernel) (o offsets, err error) {
	var all [5]uint32
	for i, m := range [...][2]string{
		{"dentry", "d_sb"}, {"dentry", "d_inode"}, {"super_block", "s_dev"},
		{"fuse_inode", "nodeid"}, {"fuse_inode", "inode"},
	} {
		if all[i], err = k.offset(m[0], m[1]); err != nil {
			return o, err
		}
	}
	return offsets{int16(all[0]), int16(all[1]), int16(all[2]), int32(all[3]) - int32(all[4])}, nil
}
