package notify

import (
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"
)

// run is what a filter answers to a call, by the rules of classic BPF.
func run(t *testing.T, filter []unix.SockFilter, audit uint32, nr uint32, args ...uint64) uint32 {
	t.Helper()
	data := binary.LittleEndian.AppendUint32(nil, nr)
	data = binary.LittleEndian.AppendUint32(data, audit)
	data = append(data, make([]byte, 8)...)
	for i := range 6 {
		var a uint64
		if i < len(args) {
			a = args[i]
		}
		data = binary.LittleEndian.AppendUint64(data, a)
	}
	var acc uint32
	for pc := 0; pc < len(filter); pc++ {
		f := filter[pc]
		test := func(ok bool) {
			if ok {
				pc += int(f.Jt)
			} else {
				pc += int(f.Jf)
			}
		}
		switch f.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			acc = binary.LittleEndian.Uint32(data[f.K:])
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			acc &= f.K
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			test(acc == f.K)
		case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			test(acc >= f.K)
		case unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K:
			test(acc&f.K != 0)
		case unix.BPF_RET | unix.BPF_K:
			return f.K
		default:
			t.Fatalf("instruction %d: code %#x", pc, f.Code)
		}
	}
	t.Fatal("the filter has no end")
	return 0
}

// TestFilter: each rule holds for each architecture's numbers, and for nothing else.
func TestFilter(t *testing.T) {
	const allow, ask = unix.SECCOMP_RET_ALLOW, unix.SECCOMP_RET_USER_NOTIF
	refused := func(e unix.Errno) uint32 { return unix.SECCOMP_RET_ERRNO | uint32(e) }
	if n := len(Filter(Rules{true, true, true, true, true, true})); n > 200 {
		t.Errorf("%d instructions: jumps have 8 bits", n)
	}
	for i, a := range arches {
		for _, r := range []Rules{{}, {Type: true}, {Mounts: true}, {Type: true, Mounts: true}, {Type: true, NoUserNamespaces: true}, {NoInput: true, NoKeys: true}, {Proc: true},
			{Type: true, Mounts: true, NoInput: true}, {Type: true, NoUserNamespaces: true, NoInput: true, NoKeys: true}} {
			f := Filter(r)
			expect := func(want uint32, nr uint32, args ...uint64) {
				t.Helper()
				if i > 0 && r.NoUserNamespaces {
					want = refused(unix.ENOSYS)
				}
				if got := run(t, f, a.audit, nr, args...); got != want {
					t.Errorf("architecture %#x, %+v, call %d%#x: %#x, want %#x", a.audit, r, nr, args, got, want)
				}
			}
			byRule := func(rule bool, then uint32) uint32 {
				if rule {
					return then
				}
				return allow
			}
			for _, c := range []call{callStatfs, callFstatfs, callStatfs64, callFstatfs64} {
				if nr, ok := a.numbers[c]; ok {
					expect(byRule(r.Type, ask), nr)
				}
			}
			for c, flags := range map[call]int{callOpen: 1, callOpenat: 2} {
				nr, ok := a.numbers[c]
				if !ok {
					continue
				}
				for _, how := range []int{unix.O_RDONLY, unix.O_CLOEXEC, unix.O_NOFOLLOW | unix.O_NONBLOCK, unix.O_WRONLY, unix.O_RDWR, unix.O_PATH, unix.O_DIRECTORY,
					unix.O_CREAT, unix.O_TRUNC} {
					args := []uint64{unix.O_WRONLY, unix.O_WRONLY, unix.O_WRONLY}
					args[flags] = uint64(how)
					expect(byRule(r.Proc && how&notReading == 0, ask), nr, args...)
				}
			}
			expect(byRule(r.Proc, ask), a.numbers[callOpenat2], 0, 0, 0, 24)
			expect(refused(unix.ENOSYS), a.numbers[callClone3])
			expect(byRule(r.Mounts, ask), a.numbers[callFsopen])
			expect(allow, 1000)
			if a.foreign != 0 {
				expect(refused(unix.ENOSYS), a.foreign|a.numbers[callStatfs])
			}
			for _, c := range []call{callClone, callUnshare} {
				expect(byRule(r.NoUserNamespaces, refused(unix.EPERM)), a.numbers[c], unix.CLONE_NEWUSER|unix.CLONE_NEWNS)
				expect(allow, a.numbers[c], unix.CLONE_NEWNS)
			}
			expect(byRule(r.NoUserNamespaces, refused(unix.EPERM)), a.numbers[callSetns], 3, 0)
			for _, c := range []call{callAddKey, callRequestKey, callKeyctl} {
				expect(byRule(r.NoKeys, refused(unix.EPERM)), a.numbers[c])
			}
			for _, command := range []uint64{unix.TIOCSTI, unix.TIOCLINUX, unix.TIOCSTI | 1<<32, unix.TIOCLINUX | 1<<63} {
				expect(byRule(r.NoInput, refused(unix.EPERM)), a.numbers[callIoctl], 0, command)
			}
			expect(allow, a.numbers[callIoctl], unix.TIOCSTI, unix.TIOCGWINSZ, unix.TIOCSTI)
			for _, flags := range mountFlags {
				expect(byRule(r.Mounts && newMount(uint32(flags)), ask), a.numbers[callMount], 1, 2, 3, flags)
			}
		}
	}
	if got := run(t, Filter(Rules{Type: true}), 0x1234, 137); got != allow {
		t.Errorf("an unknown architecture: %#x", got)
	}
	for _, r := range []Rules{{NoUserNamespaces: true}, {NoInput: true}} {
		if got := run(t, Filter(r), 0x1234, 137); got != refused(unix.ENOSYS) {
			t.Errorf("an unknown architecture, %+v: %#x", r, got)
		}
	}
}

var mountFlags = []uint64{
	0, unix.MS_NOSUID | unix.MS_NODEV, unix.MS_RDONLY, unix.MS_MGC_VAL, unix.MS_MGC_VAL | unix.MS_NOEXEC, unix.MS_BIND, unix.MS_REMOUNT | unix.MS_BIND,
	unix.MS_MGC_VAL | unix.MS_BIND, unix.MS_MGC_VAL | unix.MS_REMOUNT, unix.MS_MOVE, unix.MS_PRIVATE, unix.MS_REC | unix.MS_SLAVE, unix.MS_SHARED,
	unix.MS_UNBINDABLE,
}

// TestNewMount: the kernel's magic number is no flag.
func TestNewMount(t *testing.T) {
	want := []bool{true, true, true, true, true, false, false, false, false, false, false, false, false, false}
	for i, flags := range mountFlags {
		if got := newMount(uint32(flags)); got != want[i] {
			t.Errorf("newMount(%#x) = %v", flags, got)
		}
	}
}
