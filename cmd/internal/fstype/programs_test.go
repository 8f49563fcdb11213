package fstype

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
)

var long = &btf.Int{Name: "unsigned long", Size: 8}

// structOf is a struct of members of 8 bytes each, one after the other; a member without a name is a struct of the
// names behind it.
func structOf(name string, members ...string) *btf.Struct {
	s := &btf.Struct{Name: name}
	for _, m := range members {
		s.Members = append(s.Members, btf.Member{Name: m, Type: long, Offset: btf.Bits(8 * 8 * len(s.Members))})
	}
	s.Size = uint32(8 * len(members))
	return s
}

// recorded are types as an architecture's kernel has them, as far as programs need them: pt_regs of
// arch/x86/include/asm/ptrace.h and of arch/arm64/include/asm/ptrace.h, the others shortened.
func recorded(t *testing.T, arch arch, functions ...string) kernel {
	t.Helper()
	registers := structOf("pt_regs", strings.Fields("r15 r14 r13 r12 bp bx r11 r10 r9 r8 ax cx dx si di orig_ax ip cs flags sp ss")...)
	if arch.name == "arm64" {
		regs := &btf.Array{Index: long, Type: long, Nelems: 31}
		members := []btf.Member{{Name: "regs", Type: regs}, {Name: "sp", Type: long, Offset: 31 * 64}}
		inner := &btf.Struct{Size: 34 * 8, Members: members}
		user := &btf.Struct{Name: "user_pt_regs", Size: 34 * 8, Members: members}
		union := &btf.Union{Size: 34 * 8, Members: []btf.Member{{Name: "user_regs", Type: user}, {Type: inner}}}
		members = []btf.Member{{Type: union}, {Name: "orig_x0", Type: long, Offset: 34 * 64}}
		registers = &btf.Struct{Name: "pt_regs", Size: 35 * 8, Members: members}
	}
	inode := structOf("inode", "i_mode")
	members := []btf.Member{{Name: "inode", Type: inode}, {Name: "nodeid", Type: long, Offset: 64}}
	fuse := &btf.Struct{Name: "fuse_inode", Size: 16, Members: members}
	dentry, superBlock := structOf("dentry", "d_flags", "d_inode", "d_sb"), structOf("super_block", "s_list", "s_dev")
	all := []btf.Type{registers, dentry, superBlock, fuse}
	for _, f := range functions {
		all = append(all, &btf.Func{Name: f, Type: &btf.FuncProto{Return: long}})
	}
	b, err := btf.NewBuilder(all, nil)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := b.Marshal(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	spec, err := btf.LoadSplitSpecFromReader(bytes.NewReader(raw), nil)
	if err != nil {
		t.Fatal(err)
	}
	return kernel{own: spec}
}

// TestPrograms: for each architecture every call is followed at its beginning and its end, with the buffer where that
// architecture has it; calls that a kernel is built without are left out, others are an error.
func TestPrograms(t *testing.T) {
	buffers := map[string][]int16{
		"amd64": {13 * 8, 13 * 8, 11 * 8, 11 * 8, 12 * 8, 12 * 8}, "arm64": {8, 8, 8, 8, 16, 16},
	}
	for _, arch := range arches {
		var symbols []string
		for _, c := range arch.calls {
			symbols = append(symbols, c.symbol)
		}
		all, err := programsOf(arch, recorded(t, arch, symbols...))
		if err != nil || len(all) != 2*len(arch.calls)+3 {
			t.Fatalf("%s: %d programs, %v", arch.name, len(all), err)
		}
		for i, p := range all {
			var b bytes.Buffer
			if err := p.spec.Instructions.Marshal(&b, binary.LittleEndian); err != nil || b.Len() == 0 {
				t.Errorf("%s: %s: %v", arch.name, p.spec.AttachTo, err)
			}
			if i%2 == 0 || i >= 2*len(symbols) {
				continue
			}
			if got, want := p.spec.Instructions[2].Offset, buffers[arch.name][i/2]; got != want {
				t.Errorf("%s: the buffer of %s is at %d, want %d", arch.name, p.spec.AttachTo, got, want)
			}
		}
		if last := all[len(all)-1].spec; last.AttachTo != "fuse_statfs" || last.AttachType != ebpf.AttachTraceFExit {
			t.Errorf("%s: what leaves notes is not attached last but %s", arch.name, last.AttachTo)
		}
		all, err = programsOf(arch, recorded(t, arch, symbols[:2]...))
		if err != nil || len(all) != leastLinks+1 {
			t.Errorf("%s without compat: %d programs, %v", arch.name, len(all), err)
		}
		_, err = programsOf(arch, recorded(t, arch, symbols[1:]...))
		if err == nil || !strings.Contains(err.Error(), symbols[0]) {
			t.Errorf("%s without %s: %v", arch.name, symbols[0], err)
		}
	}
}

// TestWidths: compat structs begin with 4 bytes of type, and nothing behind them is touched.
func TestWidths(t *testing.T) {
	for compat, want := range map[bool]int64{false: 8, true: 4} {
		code := answer(0, compat)
		for _, f := range []asm.BuiltinFunc{asm.FnProbeReadUser, asm.FnProbeWriteUser} {
			size := asm.R2
			if f == asm.FnProbeWriteUser {
				size = asm.R3
			}
			at := slices.IndexFunc(code, func(i asm.Instruction) bool {
				return i.IsBuiltinCall() && i.Constant == int64(f)
			})
			if at < 0 {
				t.Fatalf("no %v", f)
			}
			set := slices.IndexFunc(code[at-5:at], func(i asm.Instruction) bool {
				return i.Dst == size && i.Constant == want
			})
			if set < 0 {
				t.Errorf("compat %v: %v is not given %d bytes", compat, f, want)
			}
		}
	}
}

// TestExplain: what a kernel answers becomes one reason.
func TestExplain(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{errNotSupported, "trampolines"}, {btf.ErrNotFound, "another than is known"}, {errArch, "x86-64 and arm64"},
		{errTypes, "CONFIG_DEBUG_INFO_BTF"}, {errLocked, "is locked down ("},
	} {
		if got := explain(c.err); !strings.Contains(got.Error(), c.want) {
			t.Errorf("%v: %q, want %q", c.err, got, c.want)
		}
	}
}
