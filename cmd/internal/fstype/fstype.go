// Package fstype has statfs tell the type of file system that a view stands for, by BPF: the kernel says FUSE's for every FUSE file
// system, and many programs take only cgroup2's.
//
// # Words
//
// A call is one of the kernel's functions for the system calls statfs and fstatfs: 64-bit, or compat for 32-bit callers. A note is what
// the end of fuse_statfs leaves for the end of the call around it: the type to answer, under the task's id. The view map says which
// super_blocks are views, by device number, and which type each node has.
//
// # What always holds
//
//   - Only super_blocks of the view map are answered for. Nothing else of a file system counts: any user who mounts FUSE chooses the rest.
//   - A super_block's entry goes in the kernel, before its device number is free for another (kill_anon_super in fs/super.c).
//   - A note is used by the call in which it was left and by no other: each call begins without one. ustat, overlayfs and others ask for
//     statfs too, and leave one.
//   - The answer is changed only where the call succeeded and the caller's memory has FUSE's type.
//   - No other system call passes through any of this.
//
// The caller's memory is written without waiting for it (bpf_probe_write_user). The kernel itself wrote there just before; if the page
// is gone again by then the answer stays FUSE's.
//
// # What it will not do
//
// It is no boundary: nothing may depend on what it answers. It needs CAP_SYS_ADMIN, BTF, and BPF trampolines (x86-64: Linux 5.5, arm64:
// Linux 6.0), and a kernel that is not locked down; Refused says which of them is missing.
package fstype

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/fs"
	"github.com/vcgroupfs/vcgroupfs/fs/conn"
)

// Programs are the programs in the kernel. They stay there for as long as their descriptors are open somewhere.
type Programs struct {
	views *ebpf.Map
	links []link.Link
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

func load() (p *Programs, err error) {
	arch, err := thisArch()
	if err != nil {
		return nil, err
	}
	if err := permitted(); err != nil { // before the kernel's types are read, which takes much longer
		return nil, err
	}
	// A kernel that has FUSE as a module loads it for this, and only then has its types.
	if fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0); err == nil {
		unix.Close(fd)
	}
	if !conn.KernelAtLeast(5, 11) { // maps were locked memory of the process before
		unlimited := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
		_ = unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unlimited)
	}
	cache := btf.NewCache()
	kernel, err := kernelTypes(cache)
	if err != nil {
		return nil, err
	}
	specs, err := programsOf(arch, kernel)
	if err != nil {
		return nil, err
	}
	return attach(specs, cache)
}

// permitted loads a program that does nothing but call what a kernel that is locked down refuses, attached to nothing.
func permitted() error {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: programPrefix + "probe", Type: ebpf.RawTracepoint, License: license, Instructions: asm.Instructions{
		asm.Mov.Imm(asm.R0, 0), asm.StoreMem(asm.RFP, slotType, asm.R0, asm.DWord),
		asm.Mov.Imm(asm.R1, 0), asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, slotType), asm.Mov.Imm(asm.R3, 8),
		asm.FnProbeWriteUser.Call(), asm.Return(),
	}})
	var verifier *ebpf.VerifierError
	if errors.As(err, &verifier) { // it knows no such function then (bpf_base_func_proto and its like)
		return fmt.Errorf("%w: %w", errLocked, err)
	}
	if err != nil {
		return fmt.Errorf("cannot load a program that writes to a process's memory: %w", err)
	}
	return p.Close()
}

// attach loads programs in their order, which is the one in which they may begin to run: what consumes notes before what leaves them.
func attach(specs []program, cache *btf.Cache) (p *Programs, err error) {
	p = &Programs{}
	defer func() {
		if err != nil {
			p.Close()
		}
	}()
	if p.views, err = ebpf.NewMap(viewsSpec()); err != nil {
		return p, fmt.Errorf("cannot make the map of views: %w", err)
	}
	notes, err := ebpf.NewMap(notesSpec())
	if err != nil {
		return p, fmt.Errorf("cannot make the map of notes: %w", err)
	}
	defer notes.Close() // the programs keep it
	shared := map[string]*ebpf.Map{viewsName: p.views, notesName: notes}
	for _, s := range specs {
		l, err := attachOne(s, shared, cache)
		switch {
		case err == nil:
			p.links = append(p.links, l)
		case s.optional && !errors.Is(err, unix.EPERM):
		default:
			return p, fmt.Errorf("cannot follow the kernel's %s: %w", s.spec.AttachTo, err)
		}
	}
	return p, nil
}

func attachOne(s program, shared map[string]*ebpf.Map, cache *btf.Cache) (link.Link, error) {
	const name = "program"
	used := map[string]*ebpf.MapSpec{}
	replace := map[string]*ebpf.Map{}
	for _, m := range []*ebpf.MapSpec{viewsSpec(), notesSpec()} {
		if slices.Contains(s.maps, m.Name) {
			used[m.Name], replace[m.Name] = m, shared[m.Name]
		}
	}
	c, err := ebpf.NewCollectionWithOptions(&ebpf.CollectionSpec{Maps: used, Programs: map[string]*ebpf.ProgramSpec{name: s.spec}},
		ebpf.CollectionOptions{MapReplacements: replace, Cache: cache})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return link.AttachTracing(link.TracingOptions{Program: c.Programs[name], AttachType: s.spec.AttachType})
}

// Show has a view answered for, until its super_block is gone. view is a descriptor of any of its nodes: while that is open the
// super_block is there, and so the number is no other's.
func (p *Programs) Show(view int, types fs.Types) error {
	key, err := deviceOf(view)
	if err != nil {
		return err
	}
	if err := p.views.Put(key, types); err != nil {
		return fmt.Errorf("cannot have statfs answer for a view: %w", err)
	}
	return nil
}

// deviceOf is a file system's number as the kernel has it (MKDEV of include/linux/kdev_t.h). The server of the view is not asked.
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
	if p.views != nil {
		p.views.Close()
	}
}

// keptName begins the names of kept descriptors. The number is that of the programs and maps as this program has them: another
// version's are not gone on with.
const keptName = "type-1-"

// Kept are the descriptors that have the programs outlive this process, by names for Take.
func (p *Programs) Kept() map[string]int {
	kept := map[string]int{keptName + viewsName: p.views.FD()}
	for i, l := range p.links {
		if f, ok := l.(interface{ FD() int }); ok {
			kept[fmt.Sprintf("%s%d-of-%d", keptName, i, len(p.links))] = f.FD()
		}
	}
	return kept
}

// IsKept says whether a name may be one of Kept, of this version or another.
func IsKept(name string) bool { return strings.HasPrefix(name, "type-") }

// Take goes on with what an earlier process kept. It takes the descriptors over, and closes them where it fails: something is missing, or
// is of another version.
func Take(kept map[string]int) (p *Programs, err error) {
	rest := maps.Clone(kept)
	p = &Programs{}
	defer func() {
		for _, fd := range rest {
			unix.Close(fd)
		}
		if err != nil {
			p.Close()
			err = fmt.Errorf("cannot go on with the programs of statfs: %w", err)
		}
	}()
	take := func(name string) (int, error) {
		fd, ok := rest[name]
		if !ok {
			return -1, fmt.Errorf("%s was not kept", name)
		}
		delete(rest, name)
		return fd, nil
	}
	fd, err := take(keptName + viewsName)
	if err != nil {
		return nil, err
	}
	if p.views, err = ebpf.NewMapFromFD(fd); err != nil {
		return nil, err
	}
	if err := viewsSpec().Compatible(p.views); err != nil {
		return nil, err
	}
	n := len(kept) - 1
	for i := range n {
		if fd, err = take(fmt.Sprintf("%s%d-of-%d", keptName, i, n)); err != nil {
			return nil, err
		}
		l, err := link.NewFromFD(fd)
		if err != nil {
			return nil, err
		}
		p.links = append(p.links, l)
	}
	return p, p.check()
}

// check says whether the kernel has the programs attached, on the functions on which this version has them.
func (p *Programs) check() error {
	if len(p.links) < leastLinks {
		return fmt.Errorf("only %d programs are attached", len(p.links))
	}
	for _, l := range p.links {
		info, err := l.Info()
		if err != nil {
			return err
		}
		if info.Type != link.TracingType {
			return fmt.Errorf("a link of type %d is none of them", info.Type)
		}
		prog, err := ebpf.NewProgramFromID(info.Program)
		if err != nil {
			return err
		}
		about, err := prog.Info()
		prog.Close()
		if err != nil {
			return err
		}
		if !strings.HasPrefix(about.Name, programPrefix) {
			return fmt.Errorf("program %s is none of them", about.Name)
		}
	}
	return nil
}
