package fstype

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/cilium/ebpf/btf"
)

// call is a function of the kernel's for a system call, which has the caller's registers for its one argument.
type call struct {
	symbol   string
	buffer   int  // which argument of the system call the buffer is, from 0
	compat   bool // of 32-bit callers
	optional bool // a kernel may be built without
}

// arch is how an architecture enters system calls.
type arch struct {
	name      string
	calls     []call
	registers func(compat bool, argument int) (member string, index int) // of struct pt_regs
}

// arches: the symbols are made by SYSCALL_DEFINE and COMPAT_SYSCALL_DEFINE of arch/x86/include/asm/syscall_wrapper.h
// and of its like for arm64; the functions are in fs/statfs.c, and arm64's own two in arch/arm64/kernel/sys32.c.
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

// argument is where in struct pt_regs the buffer of a call is.
func (a arch) argument(k kernel, c call) (int16, error) {
	member, index := a.registers(c.compat, c.buffer)
	at, err := k.offset("pt_regs", member)
	const register = 8
	return int16(at) + int16(index)*register, err
}

// kernel is the running kernel's types: its own, and those of the module fuse where there is one.
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

// offset is where a member of a struct is, in bytes.
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

// memberIn also looks into members that have no name.
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
	nodeID                          int32 // from the inode that is part of a struct fuse_inode
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
