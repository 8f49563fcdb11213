// Package fstype makes statfs report, by BPF, the type of file system that a view stands for. The kernel reports FUSE's
// type for every FUSE file system, and many programs accept only cgroup2's.
//
// # Words
//
// A call is one of the kernel's functions for the system calls statfs and fstatfs: 64-bit, or compat for 32-bit
// callers. A note passes the type to answer from the end of fuse_statfs to the end of the call around it, under the
// task's id. The view map lists the super_blocks of views, by device number, and the types of their nodes.
//
// # What always holds
//
//   - Only super_blocks of the view map get an answer. Nothing else of a file system counts: any user who mounts
//     FUSE chooses the rest.
//   - The kernel removes a super_block's entry before its device number can be reused (kill_anon_super in
//     fs/super.c).
//   - Only the call in which a note was left uses it: each call begins without a note. ustat, overlayfs and others
//     call fuse_statfs too, and leave notes.
//   - The answer changes only if the call succeeded and the caller's memory has FUSE's type.
//   - No other system call passes through these programs, except for a test of one bit when a task is made.
//
// If BPF is among the kernel's security modules (lsm= and CONFIG_LSM), clone3 with CLONE_INTO_CGROUP answers ENOSYS to
// a guest's tasks: it accepts no directory of a view, and upon ENOSYS programs fall back to another way.
//
// The caller's memory is written without waiting for a page (bpf_probe_write_user). The kernel itself wrote there just
// before; if the page is gone again by then, the answer stays FUSE's.
//
// # What it will not do
//
// It is no boundary: nothing may depend on its answers. It needs CAP_SYS_ADMIN, BTF, and BPF trampolines (x86-64: Linux
// 5.5, arm64: Linux 6.0), and a kernel that is not locked down. Refused names the missing one.
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

// Programs are the programs in the kernel. They stay there as long as a process has their descriptors open.
type Programs struct {
	views, guests *ebpf.Map
	links         []link.Link
}

// Load loads and attaches the programs. The error is a *Refused if this host cannot have them.
func Load() (*Programs, error) {
	p, err := load()
	// Parsing the kernel's types took much memory, which is free now.
	debug.FreeOSMemory()
	if err != nil {
		return nil, explain(err)
	}
	return p, nil
}

// Probe reports the error that Load would return, and attaches nothing: detaching programs takes the kernel a second.
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

// View is the programs' entry for a view.
type View struct {
	Types fs.Types `json:"types"` // by the uppermost 6 bits of a node's id; 0: unchanged
	// Cgroup is the id of the v2 cgroup with the guest's tasks. Their clone3 with CLONE_INTO_CGROUP answers ENOSYS. 0: no
	// task's does.
	Cgroup uint64 `json:"cgroup,omitempty"`
}

// ViewOf returns the entry for a view.
func ViewOf(v *fs.View) View { return View{v.Types(), v.Cgroup()} }

// Show makes statfs answer for a view until its super_block is gone. view is a descriptor of any node of the view.
// While it is open the super_block exists, so its device number is not reused. The error is the kernel's.
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

// deviceOf returns a file system's device number in the kernel's form (MKDEV of include/linux/kdev_t.h). It sends no
// request to the view's server.
func deviceOf(view int) (uint32, error) {
	var st unix.Statx_t
	if err := unix.Statx(view, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, 0, &st); err != nil {
		return 0, os.NewSyscallError("statx", err)
	}
	return st.Dev_major<<20 | st.Dev_minor, nil
}

// Close closes the descriptors of the programs. A program that no process has open ends.
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
