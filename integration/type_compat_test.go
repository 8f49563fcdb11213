package integration

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// i386 makes programs for 32-bit callers, of the instructions that they need.
type i386 struct{ code []byte }

const (
	i386Base   = 0x08048000
	i386Buffer = i386Base + 0x1000 // what the last call returned, then the struct that it filled
	i386Header = 52 + 32           // ELF header and one program header
)

func (x *i386) word(opcode byte, value uint32) {
	x.code = binary.LittleEndian.AppendUint32(append(x.code, opcode), value)
}

// call is a system call: mov to eax, ebx, ecx and edx, int 0x80.
func (x *i386) call(number uint32, args ...uint32) {
	x.word(0xb8, number)
	for i, a := range args {
		x.word([]byte{0xbb, 0xb9, 0xba}[i], a)
	}
	x.code = append(x.code, 0xcd, 0x80)
}

// file is the program with a path behind its code, in one segment that may do everything.
func (x *i386) file(path string) []byte {
	var b bytes.Buffer
	b.WriteString("\x7fELF\x01\x01\x01")
	b.Write(make([]byte, 9))
	half := func(v ...uint16) { binary.Write(&b, binary.LittleEndian, v) }
	word := func(v ...uint32) { binary.Write(&b, binary.LittleEndian, v) }
	half(2, 3) // ET_EXEC, EM_386
	word(1, i386Base+i386Header, 52, 0, 0)
	half(52, 32, 1, 0, 0, 0)
	size := uint32(i386Header + len(x.code) + len(path) + 1)
	word(1, 0, i386Base, i386Base, size, 0x2000, 7, 0x1000) // PT_LOAD
	b.Write(x.code)
	b.WriteString(path + "\x00")
	return b.Bytes()
}

// ask32 has a 32-bit program do statfs or its like of a path, and of descriptor 3, and says what each call returned
// and which type.
func ask32(t *testing.T, path string) (answers [4][2]uint32) {
	t.Helper()
	const statfs, fstatfs, statfs64, fstatfs64, write, exit, sizeof64 = 99, 100, 268, 269, 4, 1, 84
	make32 := func(name uint32) *i386 {
		x := &i386{}
		const buffer = i386Buffer + 4
		for _, c := range [][]uint32{
			{statfs, name, buffer}, {fstatfs, 3, buffer}, {statfs64, name, sizeof64, buffer}, {fstatfs64, 3, sizeof64, buffer},
		} {
			x.call(c[0], c[1:]...)
			x.word(0xa3, i386Buffer) // mov [buffer], eax
			x.call(write, 1, i386Buffer, 8)
		}
		x.call(exit, 0)
		return x
	}
	end := uint32(i386Base + i386Header + len(make32(0).code))
	program := filepath.Join(t.TempDir(), "ask32")
	if err := os.WriteFile(program, make32(end).file(path), 0o755); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	cmd := exec.Command(program)
	cmd.ExtraFiles = []*os.File{file}
	out, err := cmd.Output()
	if errors.Is(err, unix.ENOEXEC) {
		t.Skip("machine: the kernel is built without CONFIG_IA32_EMULATION")
	}
	if err != nil || binary.Read(bytes.NewReader(out), binary.LittleEndian, &answers) != nil {
		t.Fatalf("%v: %q", err, out)
	}
	return answers
}

// TestType32: 32-bit callers are told the same.
func TestType32(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("machine: its programs for 32-bit callers are others than the test makes")
	}
	hier := kit.NeedHierarchy(t, kit.OpenHost(t), "pids")
	path := kit.NewBoundary(t, "compat", hier)
	args := []string{"--boundary", path, "--controllers", "pids"}
	off := kit.MountView(t, append(args, "--no-bpf")...)
	all := func(dir string, want uint32) {
		for i, a := range ask32(t, dir) {
			if a != [2]uint32{0, want} {
				t.Errorf("%s: call %d: %#x, want 0 and %#x", dir, i, a, want)
			}
		}
	}
	all(kit.HostDir(hier, path), uint32(kit.NativeType(hier))) // the program itself
	all(off.Top(hier), unix.FUSE_SUPER_MAGIC)
	kit.NeedType(t)
	v := kit.MountView(t, args...)
	all(v.Top(hier), uint32(kit.NativeType(hier)))
	all(off.Top(hier), unix.FUSE_SUPER_MAGIC)
}
