package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestParseStatus(t *testing.T) {
	for line, want := range map[string]int{
		"=== vm: exit status 0 ===":    0,
		"=== vm: exit status 137 ===":  137,
		"=== vm: exit status 1":        -1, // cut short
		"=== vm: exit status 256 ===":  -1,
		"=== vm: exit status ===":      -1,
		"PASS":                         -1,
		"":                             -1,
		"x === vm: exit status 0 ===":  -1,
		"=== vm: exit status 0 === ok": -1,
	} {
		got, err := parseStatus(line)
		if err != nil {
			got = -1
		}
		if got != want {
			t.Errorf("parseStatus(%q) = %d, want %d", line, got, want)
		}
	}
}

func TestCopyLines(t *testing.T) {
	var out strings.Builder
	last, err := copyLines(&out, strings.NewReader("a\r\n\r\nb\nlast\n\n"), time.NewTimer(time.Hour))
	if err != nil || last != "last" || out.String() != "a\n\nb\nlast\n\n" {
		t.Errorf("got last %q, output %q, error %v", last, out.String(), err)
	}
}

func TestComplaints(t *testing.T) {
	bad := []string{
		"[    2.708035] WARNING: CPU: 0 PID: 1 at fs/fuse/dev.c:10 x+0x1/0x2 [fuse]",
		"[   12.1] BUG: kernel NULL pointer dereference, address: 0000000000000000",
		"[   60.000001] watchdog: BUG: soft lockup - CPU#1 stuck for 134s! [x:1]",
		"[  120.000001] INFO: task cat:17 blocked for more than 60 seconds.",
		"[    2.685190] Kernel panic - not syncing: sysrq triggered crash",
		"[    9.685190] Oops: general protection fault, probably for non-canonical address",
		"[    9.685190] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
		"[    9.685190] refcount_t: underflow; use-after-free.",
	}
	good := []string{
		"[    0.814678] mtrr: your CPUs had inconsistent fixed MTRR settings",
		"[    0.1] Spectre V2 : WARNING: Unprivileged eBPF is enabled with eIBRS on",
		"[    5.5] a.test invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0",
		"[    5.6] Memory cgroup out of memory: Killed process 181 (sh) total-vm:4000kB",
		"WARNING: not a line of the kernel",
	}
	if got := complaints(strings.Join(slices.Concat(bad, good), "\r\n") + "\n"); !slices.Equal(got, bad) {
		t.Errorf("complaints: got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(bad, "\n"))
	}
}

func TestCommandQuotes(t *testing.T) {
	g := guest{dir: "/a b", env: []string{"A=it's"}, argv: []string{"echo", "$x; 'y'"}}
	want := "export 'A=it'\\''s'\nmkdir -p '/a b' && cd '/a b' || exit 126\nexec 'echo' '$x; '\\''y'\\'''\n"
	if got := string(g.command()); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestImageMounts(t *testing.T) {
	got, err := guest{images: []string{"bin/a.ext4=/trees/a", "b=/b"}}.imageMounts()
	if want := "image0 /trees/a\nimage1 /b\n"; err != nil || string(got) != want {
		t.Errorf("got %q, error %v; want %q", got, err, want)
	}
	args := machine{images: []string{"a.ext4"}}.args()
	if !slices.Contains(args, "virtio-blk-pci,drive=image0,serial=image0") {
		t.Errorf("no disk for an image: %q", args)
	}
	for _, bad := range []string{"a", "a=b", "a=/b c"} {
		if _, err := (guest{images: []string{bad}}).imageMounts(); err == nil {
			t.Errorf("-image %q was accepted", bad)
		}
	}
}

// entry is what a test reads back of an archive.
type entry struct {
	name string
	mode uint64
	data string
}

// readCPIO reads a newc archive as the kernel's init/initramfs.c does.
func readCPIO(t *testing.T, archive []byte) (entries []entry) {
	t.Helper()
	align := func(n uint64) uint64 { return (n + 3) &^ 3 }
	for at := uint64(0); ; {
		field := func(i uint64) uint64 {
			n, err := strconv.ParseUint(string(archive[at+6+8*i:at+14+8*i]), 16, 32)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		if magic := string(archive[at : at+6]); magic != "070701" {
			t.Fatalf("magic %q at %d", magic, at)
		}
		mode, size, nameSize := field(1), field(6), field(11)
		name := string(archive[at+110 : at+110+nameSize-1])
		at = align(at + 110 + nameSize)
		if name == "TRAILER!!!" {
			return entries
		}
		entries = append(entries, entry{name, mode, string(archive[at : at+size])})
		at = align(at + size)
	}
}

func TestArchive(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "sub/f"), []byte("12345"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("sub/f", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w := newCPIO(&b)
	w.device("/dev/console", 0o600, 5, 1)
	if err := addTree(w, dir, "/t"); err != nil {
		t.Fatal(err)
	}
	if err := w.close(); err != nil {
		t.Fatal(err)
	}
	want := []entry{
		{"dev", 0o40755, ""}, {"dev/console", 0o20600, ""}, {"t", 0o40755, ""}, {"t/link", 0o120777, "sub/f"},
		{"t/sub", 0o40755, ""}, {"t/sub/f", 0o100640, "12345"},
	}
	if got := readCPIO(t, b.Bytes()); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestSilence: a machine that says nothing is ended, one that has said something is not.
func TestSilence(t *testing.T) {
	dir := t.TempDir()
	for script, want := range map[string]error{"exec sleep 100": errSilent, "echo begun; sleep 0.3; echo '=== vm: exit status 3 ==='": nil} {
		emulator := filepath.Join(dir, "emulator")
		if err := os.WriteFile(emulator, []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		m := machine{qemu: emulator, console: filepath.Join(dir, "console"), timeout: time.Minute, bootTime: 200 * time.Millisecond}
		status, err := m.run(t.Context(), io.Discard)
		if !errors.Is(err, want) || want == nil && status != 3 {
			t.Errorf("%s: status %d, %v", script, status, err)
		}
	}
}

// module is the smallest ELF file that has a .modinfo section.
func module(info string) []byte {
	names := "\x00.modinfo\x00.shstrtab\x00"
	head := make([]byte, 64)
	copy(head, "\x7fELF\x02\x01\x01")
	le := binary.LittleEndian
	le.PutUint16(head[16:], 1)                                    // ET_REL
	le.PutUint16(head[18:], 62)                                   // EM_X86_64
	le.PutUint32(head[20:], 1)                                    // EV_CURRENT
	le.PutUint64(head[40:], uint64(64+len(info)+len(names)))      // e_shoff
	le.PutUint16(head[52:], 64)                                   // e_ehsize
	le.PutUint16(head[58:], 64)                                   // e_shentsize
	le.PutUint16(head[60:], 3)                                    // e_shnum
	le.PutUint16(head[62:], 2)                                    // e_shstrndx
	section := func(name, kind uint32, offset, size int) []byte { // Elf64_Shdr
		s := make([]byte, 64)
		le.PutUint32(s, name)
		le.PutUint32(s[4:], kind)
		le.PutUint64(s[24:], uint64(offset))
		le.PutUint64(s[32:], uint64(size))
		return s
	}
	return slices.Concat(head, []byte(info), []byte(names), make([]byte, 64),
		section(1, 1, 64, len(info)), section(10, 3, 64+len(info), len(names)))
}

func TestModules(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, data []byte) {
		path := filepath.Join(dir, "lib/modules/6.1.0/", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("modules.builtin", []byte("kernel/fs/fuse/fuse.ko\n"))
	write("kernel/a-b.ko", module("license=GPL\x00depends=c,d\x00"))
	write("kernel/c.ko", module("depends=d\x00"))
	write("kernel/d.ko", module("depends=\x00"))
	write("kernel/e.ko", module("depends=gone\x00"))
	tree, err := openModules(dir)
	if err != nil {
		t.Fatal(err)
	}
	order, err := tree.resolve([]string{"fuse", "a-b", "c"})
	var names []string
	for _, m := range order {
		names = append(names, m.name)
	}
	if want := []string{"d", "c", "a_b"}; err != nil || !slices.Equal(names, want) {
		t.Errorf("order %v, error %v; want %v", names, err, want)
	}
	if _, err := tree.resolve([]string{"e"}); err == nil {
		t.Error("a module with a missing dependency was resolved")
	}
}
