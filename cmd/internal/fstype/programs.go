package fstype

import (
	"encoding/binary"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/fs"
)

// program is a program, and the kernel function that it is attached to.
type program struct {
	spec     *ebpf.ProgramSpec
	maps     []string
	optional bool // the others run without it
}

const (
	viewsName  = "vcg_views"
	notesName  = "vcg_notes"
	guestsName = "vcg_guests"

	programPrefix = "vcg_" // begins the programs' names, as bpftool lists them
	typeSize      = 4      // of one type in a view's entry
	types         = len(fs.Types{})
	cgroupAt      = types * typeSize // in a view's entry: offset of the cgroup's id
	entrySize     = cgroupAt + 8

	maxViews = 1 << 16
	// A note lives from the end of fuse_statfs to the end of the call. Each processor takes 128 free entries at once
	// (LOCAL_FREE_TARGET of kernel/bpf/bpf_lru_list.c), and without a free one a note is lost.
	minNotes     = 1 << 14
	notesPerCPU  = 256
	leastLinks   = 6 // note, bury, and two for each of statfs and fstatfs
	license      = "Dual MIT/GPL"
	fuseTypeInt  = unix.FUSE_SUPER_MAGIC
	ctxArg1      = 0
	ctxReturned  = 8  // of a function with one argument
	ctxReturned2 = 16 // and with two
)

func viewsSpec() *ebpf.MapSpec {
	return &ebpf.MapSpec{
		Name: viewsName, Type: ebpf.Hash, KeySize: 4, ValueSize: uint32(entrySize),
		MaxEntries: maxViews, Flags: unix.BPF_F_NO_PREALLOC,
	}
}

// valueOf returns a view in its map's form.
func valueOf(v View) []byte {
	b := make([]byte, 0, entrySize)
	for _, t := range v.Types {
		b = binary.NativeEndian.AppendUint32(b, t)
	}
	return binary.NativeEndian.AppendUint64(b, v.Cgroup)
}

// guestsSpec maps the id of a guest's cgroup, which is never reused, to the device number of its view.
func guestsSpec() *ebpf.MapSpec {
	return &ebpf.MapSpec{
		Name: guestsName, Type: ebpf.Hash, KeySize: 8, ValueSize: 4,
		MaxEntries: maxViews, Flags: unix.BPF_F_NO_PREALLOC,
	}
}

func mapSpecs() []*ebpf.MapSpec { return []*ebpf.MapSpec{viewsSpec(), notesSpec(), guestsSpec()} }

func notesSpec() *ebpf.MapSpec {
	return &ebpf.MapSpec{
		Name: notesName, Type: ebpf.LRUHash, KeySize: 8, ValueSize: 8,
		MaxEntries: uint32(max(minNotes, notesPerCPU*processors())),
	}
}

func processors() int {
	n, err := ebpf.PossibleCPU()
	if err != nil {
		return 1
	}
	return n
}

// Stack slots.
const (
	slotTask = -8  // the note's key
	slotType = -16 // a type, as read from or written to the caller's memory
	slotKey  = -20 // the view map's key
)

// programsOf makes the programs for an architecture and a kernel's types, in the order of their attachment.
func programsOf(arch arch, kernel kernel) (all []program, err error) {
	for _, c := range arch.calls {
		if !kernel.hasFunc(c.symbol) {
			if c.optional {
				continue
			}
			return nil, fmt.Errorf("the kernel has no %s", c.symbol)
		}
		buffer, err := arch.argument(kernel, c)
		if err != nil {
			return nil, err
		}
		all = append(all,
			program{entry(c.symbol, "begin", begin()), []string{notesName}, c.optional},
			program{exit(c.symbol, "answer", answer(buffer, c.compat)), []string{notesName}, c.optional})
	}
	at, err := offsetsOf(kernel)
	if err != nil {
		return nil, err
	}
	return append(all,
		program{entry("kill_anon_super", "bury", bury(at)), []string{viewsName, guestsName}, false},
		program{intoCgroup(), []string{guestsName}, true},
		program{exit("fuse_statfs", "note", note(at)), []string{viewsName, notesName}, false}), nil
}

// tracing makes a program. The kernel allows bpf_probe_write_user only under a licence compatible with its own; this
// program is under two.
func tracing(name, to string, at ebpf.AttachType, code asm.Instructions) *ebpf.ProgramSpec {
	return &ebpf.ProgramSpec{
		Name: programPrefix + name, Type: ebpf.Tracing, AttachType: at, AttachTo: to, License: license,
		Instructions: code,
	}
}

// entry makes a program that runs when a kernel function begins; exit makes one that runs when it has returned.
func entry(to, name string, code asm.Instructions) *ebpf.ProgramSpec {
	return tracing(name, to, ebpf.AttachTraceFEntry, code)
}

func exit(to, name string, code asm.Instructions) *ebpf.ProgramSpec {
	return tracing(name, to, ebpf.AttachTraceFExit, code)
}

func out() asm.Instructions {
	return asm.Instructions{asm.Mov.Imm(asm.R0, 0).WithSymbol("out"), asm.Return()}
}

// key loads the arguments of a map's helper: the map, and a stack slot.
func key(name string, slot int32) asm.Instructions {
	return asm.Instructions{
		asm.LoadMapPtr(asm.R1, 0).WithReference(name), asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, slot),
	}
}

// task stores this task's key of a note.
func task() asm.Instructions {
	return asm.Instructions{asm.FnGetCurrentPidTgid.Call(), asm.StoreMem(asm.RFP, slotTask, asm.R0, asm.DWord)}
}

func join(parts ...asm.Instructions) (all asm.Instructions) {
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

// lookup leaves a map's value for a slot's key in R0, and jumps out if there is none.
func lookup(name string, slot int32) asm.Instructions {
	return append(key(name, slot), asm.FnMapLookupElem.Call(), asm.JEq.Imm(asm.R0, 0, "out"))
}

func remove(name string, slot int32) asm.Instructions {
	return append(key(name, slot), asm.FnMapDeleteElem.Call())
}

// begin runs when a call begins, and removes an old note: it must not answer this call. Looking up is much cheaper than
// deleting.
func begin() asm.Instructions {
	return join(task(), lookup(notesName, slotTask), remove(notesName, slotTask), out())
}

// note runs at the end of fuse_statfs(struct dentry *, struct kstatfs *).
func note(at offsets) asm.Instructions {
	return join(
		asm.Instructions{
			asm.LoadMem(asm.R7, asm.R1, ctxReturned2, asm.DWord),
			asm.JNE.Imm(asm.R7, 0, "out"),
			asm.LoadMem(asm.R6, asm.R1, ctxArg1, asm.DWord),
			asm.LoadMem(asm.R7, asm.R6, at.dentrySB, asm.DWord),
			asm.LoadMem(asm.R7, asm.R7, at.sbDevice, asm.Word),
			asm.StoreMem(asm.RFP, slotKey, asm.R7, asm.Word),
		},
		lookup(viewsName, slotKey),
		asm.Instructions{
			// R7: the view's types.
			asm.Mov.Reg(asm.R7, asm.R0),
			// The inode is inside a struct fuse_inode, which the verifier cannot know.
			asm.LoadMem(asm.R3, asm.R6, at.dentryInode, asm.DWord),
			asm.Add.Imm(asm.R3, at.nodeID),
			asm.Mov.Reg(asm.R1, asm.RFP), asm.Add.Imm(asm.R1, slotType), asm.Mov.Imm(asm.R2, 8),
			asm.FnProbeReadKernel.Call(),
			asm.JNE.Imm(asm.R0, 0, "out"),
			asm.LoadMem(asm.R6, asm.RFP, slotType, asm.DWord),
			asm.RSh.Imm(asm.R6, fs.TypeShift),
			asm.LSh.Imm(asm.R6, 2), // typeSize
			asm.Add.Reg(asm.R7, asm.R6),
			asm.LoadMem(asm.R6, asm.R7, 0, asm.Word),
			// A node of no tree.
			asm.JEq.Imm(asm.R6, 0, "out"),
			asm.StoreMem(asm.RFP, slotType, asm.R6, asm.DWord),
		},
		task(), key(notesName, slotTask),
		asm.Instructions{
			asm.Mov.Reg(asm.R3, asm.RFP), asm.Add.Imm(asm.R3, slotType), asm.Mov.Imm(asm.R4, 0),
			asm.FnMapUpdateElem.Call(),
		}, out())
}

// answer runs when a call ends: a function of struct pt_regs *. One of those registers holds the buffer's address. The
// buffer begins with the type: a long, or 4 bytes in the structs of compat callers (struct statfs, compat_statfs,
// compat_statfs64).
func answer(buffer int16, compat bool) asm.Instructions {
	size := int32(8)
	narrow := asm.Instructions{}
	if compat {
		size = 4
		narrow = asm.Instructions{asm.Mov.Reg32(asm.R6, asm.R6)}
	}
	return join(
		asm.Instructions{
			asm.LoadMem(asm.R6, asm.R1, ctxArg1, asm.DWord),
			asm.LoadMem(asm.R8, asm.R1, ctxReturned, asm.DWord),
			asm.LoadMem(asm.R6, asm.R6, buffer, asm.DWord),
		}, narrow, task(), lookup(notesName, slotTask),
		asm.Instructions{asm.LoadMem(asm.R7, asm.R0, 0, asm.DWord)},
		remove(notesName, slotTask),
		asm.Instructions{
			asm.JNE.Imm(asm.R8, 0, "out"),
			asm.Mov.Imm(asm.R0, 0), asm.StoreMem(asm.RFP, slotType, asm.R0, asm.DWord),
			asm.Mov.Reg(asm.R1, asm.RFP), asm.Add.Imm(asm.R1, slotType), asm.Mov.Imm(asm.R2, size),
			asm.Mov.Reg(asm.R3, asm.R6),
			asm.FnProbeReadUser.Call(),
			asm.JNE.Imm(asm.R0, 0, "out"),
			asm.LoadMem(asm.R1, asm.RFP, slotType, asm.DWord),
			asm.JNE.Imm(asm.R1, fuseTypeInt, "out"),
			asm.StoreMem(asm.RFP, slotType, asm.R7, asm.DWord),
			asm.Mov.Reg(asm.R1, asm.R6), asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, slotType),
			asm.Mov.Imm(asm.R3, size),
			asm.FnProbeWriteUser.Call(),
		}, out())
}

// bury runs when kill_anon_super(struct super_block *) begins: afterwards the device's number can be reused.
func bury(at offsets) asm.Instructions {
	return join(asm.Instructions{
		asm.LoadMem(asm.R6, asm.R1, ctxArg1, asm.DWord),
		asm.LoadMem(asm.R6, asm.R6, at.sbDevice, asm.Word),
		asm.StoreMem(asm.RFP, slotKey, asm.R6, asm.Word),
	}, lookup(viewsName, slotKey), asm.Instructions{
		asm.LoadMem(asm.R1, asm.R0, int16(cgroupAt), asm.DWord),
		asm.StoreMem(asm.RFP, slotTask, asm.R1, asm.DWord),
	}, key(guestsName, slotTask), asm.Instructions{
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "view"),
		asm.LoadMem(asm.R1, asm.R0, 0, asm.Word),
		// The guest has another view.
		asm.JNE.Reg(asm.R1, asm.R6, "view"),
	}, remove(guestsName, slotTask), asm.Instructions{
		asm.Mov.Imm(asm.R0, 0).WithSymbol("view"),
	}, remove(viewsName, slotKey), out())
}

const (
	intoCgroupBit = 33 // CLONE_INTO_CGROUP of include/uapi/linux/sched.h
	maxDepth      = 24 // of a guest's cgroup
)

// intoCgroup runs at the security hook task_alloc(struct task_struct *, unsigned long clone_flags), before the kernel
// looks up the cgroup (copy_process in kernel/fork.c). The caller is a guest's if a guest's cgroup is among the
// caller's cgroup and those above.
func intoCgroup() *ebpf.ProgramSpec {
	code := asm.Instructions{
		// The second argument.
		asm.LoadMem(asm.R1, asm.R1, ctxReturned, asm.DWord),
		asm.RSh.Imm(asm.R1, intoCgroupBit),
		asm.And.Imm(asm.R1, 1),
		asm.JEq.Imm(asm.R1, 0, "out"),
	}
	for level := int32(1); level <= maxDepth; level++ {
		code = join(code, asm.Instructions{
			asm.Mov.Imm(asm.R1, level), asm.FnGetCurrentAncestorCgroupId.Call(),
			// The caller's cgroup is not so deep.
			asm.JEq.Imm(asm.R0, 0, "out"),
			asm.StoreMem(asm.RFP, slotTask, asm.R0, asm.DWord),
		}, key(guestsName, slotTask), asm.Instructions{
			asm.FnMapLookupElem.Call(), asm.JNE.Imm(asm.R0, 0, "refuse"),
		})
	}
	refuse := asm.Instructions{asm.Mov.Imm(asm.R0, -int32(unix.ENOSYS)).WithSymbol("refuse"), asm.Return()}
	return &ebpf.ProgramSpec{
		Name: programPrefix + "into_cgroup", Type: ebpf.LSM, AttachType: ebpf.AttachLSMMac, AttachTo: "task_alloc",
		License: license, Instructions: join(code, out(), refuse),
	}
}
