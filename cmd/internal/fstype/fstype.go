// Package fstype has statfs tell the type of file system that a view stands for, by BPF: the kernel says FUSE's for
// every FUSE file system, and many programs take only cgroup2's.
//
// # Words
//
// A call is one of the kernel's functions for the system calls statfs and fstatfs: 64-bit, or compat for 32-bit
// callers. A note is what the end of fuse_statfs leaves for the end of the call around it: the type to answer, under
// the task's id. The view map says which super_blocks are views, by device number, and which type each node has.
//
// # What always holds
//
//   - Only super_blocks of the view map are answered for. Nothing else of a file system counts: any user who mounts
//     FUSE chooses the rest.
//   - A super_block's entry goes in the kernel, before its device number is free for another (kill_anon_super in
//     fs/super.c).
//   - A note is used by the call in which it was left and by no other: each call begins without one. ustat, overlayfs
//     and others ask for statfs too, and leave one.
//   - The answer is changed only where the call succeeded and the caller's memory has FUSE's type.
//   - No other system call passes through any of this, but for a test of one bit where a task is made.
//
// Where BPF is among the kernel's security modules (lsm= and CONFIG_LSM), clone3 with CLONE_INTO_CGROUP answers ENOSYS
// to the tasks of a guest: no directory of a view will do for it, and upon ENOSYS programs fall back to what works.
//
// The caller's memory is written without waiting for it (bpf_probe_write_user). The kernel itself wrote there just
// before; if the page is gone again by then the answer stays FUSE's.
//
// # What it will not do
//
// It is no boundary: nothing may depend on what it answers. It needs CAP_SYS_ADMIN, BTF, and BPF trampolines (x86-64:
// Linux 5.5, arm64: Linux 6.0), and a kernel that is not locked down; Refused says which of them is missing.
package fstype

import (
	"fmt"
	"os"
	"runtime/debug"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/fs"
)

// Programs are the programs in the kernel. They stay there for as long as their descriptors are open somewhere.
type Programs struct {
	views, guests *ebpf.Map
	links         []link.Link
}

// Load loads and attaches the programs. The error is a *Refused where this host cannot have them.
func Load() (*Programs, error) {
	p, err := load()
	// What was read of the kernel's types is not needed any more, and it is much.
	debug.FreeOSMemory()
	if err != nil {
		return nil, explain(err)
	}
	return p, nil
}

// Probe says what Load would, and attaches nothing: taking programs away again has the kernel wait for a second.
func Probe() error {
	specs, cache, err := prepare()
	if err == nil {
		err = verify(specs, cache)
	}
	debug.FreeOSMemory()
	if err != nil {
		return explain(err)
	}
	return nil
}

// View is what the programs are to know of a view.
type View struct {
	Types fs.Types `json:"types"` // by the uppermost 6 bits of a node's id; 0: as it is
	// Cgroup is the id of the v2 cgroup that holds the guest's tasks: their clone3 with CLONE_INTO_CGROUP answers
	// ENOSYS. 0: nobody's does.
	Cgroup uint64 `json:"cgroup,omitempty"`
}

// ViewOf is what they are to know of one.
func ViewOf(v *fs.View) View { return View{v.Types(), v.Cgroup()} }

// Show has a view answered for, until its super_block is gone. view is a descriptor of any of its nodes: while that is
// open the super_block is there, and so the number is no other's.
func (p *Programs) Show(view int, v View) error {
	key, err := deviceOf(view)
	if err != nil {
		return err
	}
	if v.Cgroup != 0 {
		if err := p.guests.Put(v.Cgroup, key); err != nil {
			return fmt.Errorf("cannot have clone3 of a guest answered: %w", err)
		}
	}
	if err := p.views.Put(key, valueOf(v)); err != nil {
		return fmt.Errorf("cannot have statfs answer for a view: %w", err)
	}
	return nil
}

// deviceOf is a file system's number as the kernel has it (MKDEV of include/linux/kdev_t.h). The server of the view is
// not asked.
func deviceOf(view int) (uint32, error) {
	var st unix.Statx_t
	if err := unix.Statx(view, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, 0, &st); err != nil {
		return 0, os.NewSyscallError("statx", err)
	}
	return st.Dev_major<<20 | st.Dev_minor, nil
}

// Close lets go of the programs: what nobody else has open ends.
func (p *Programs) Close() {
	for _, l := range p.links {
		l.Close()
	}
	p.links = nil
	for _, m := range []*ebpf.Map{p.views, p.guests} {
		if m != nil {
			m.Close()
		}
	}
}
