package notify

import (
	"errors"
	"io"
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestTexts: a text is read as it was given, and nobody can change it.
func TestTexts(t *testing.T) {
	x := &texts{}
	defer x.clear()
	fd, err := x.open("cgroup", "1:memory:/a\n")
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "cgroup")
	defer f.Close()
	if b, err := io.ReadAll(f); err != nil || string(b) != "1:memory:/a\n" {
		t.Errorf("%q, %v", b, err)
	}
	if _, err := f.Write([]byte("x")); !errors.Is(err, unix.EBADF) {
		t.Errorf("a write: %v", err)
	}
	again, err := unix.Open("/proc/self/fd/"+strconv.Itoa(fd), unix.O_RDWR, 0)
	if err == nil {
		defer unix.Close(again)
		if _, err = unix.Write(again, []byte("x")); !errors.Is(err, unix.EPERM) {
			t.Errorf("a write by another open: %v", err)
		}
		if err := unix.Ftruncate(again, 0); !errors.Is(err, unix.EPERM) {
			t.Errorf("a truncate: %v", err)
		}
		if _, err := unix.FcntlInt(uintptr(again), unix.F_ADD_SEALS, 0); !errors.Is(err, unix.EPERM) {
			t.Errorf("seals: %v", err)
		}
	}
	other, err := x.open("cgroup", "1:memory:/a\n")
	if err != nil || len(x.all) != 1 {
		t.Fatalf("the same text: %d files, %v", len(x.all), err)
	}
	var a, b unix.Stat_t
	if unix.Fstat(fd, &a) != nil || unix.Fstat(other, &b) != nil || a.Ino != b.Ino || a.Mode != unix.S_IFREG|0o444 {
		t.Errorf("%+v, %+v", a, b)
	}
	unix.Close(other)
}

// TestTextsBounds: what is kept open is bounded, in number and in bytes; what is closed makes room, and a map counts as an open.
func TestTextsBounds(t *testing.T) {
	x := &texts{}
	defer x.clear()
	var kept []int
	closeAll := func() {
		for _, fd := range kept {
			unix.Close(fd)
		}
		kept = nil
	}
	fill := func(of func(i int) string) (n int) {
		for ; ; n++ {
			fd, err := x.open("mountinfo", of(n))
			if errors.Is(err, errFull) {
				return n
			}
			if err != nil {
				t.Fatal(err)
			}
			kept = append(kept, fd)
		}
	}
	if n := fill(func(int) string { return "same" }); n != maxTexts*maxGiven {
		t.Errorf("%d opens of one text", n)
	}
	closeAll()
	if n := fill(func(i int) string { return strconv.Itoa(i) }); n != maxTexts {
		t.Errorf("%d texts", n)
	}
	fd, err := x.open("mountinfo", "1")
	if err != nil {
		t.Errorf("a text that is there: %v", err)
	}
	kept = append(kept, fd)
	closeAll()
	long := strings.Repeat("x", maxText-10)
	if n := fill(func(i int) string { return long + strconv.Itoa(i) }); n != maxBytes/maxText {
		t.Errorf("%d long texts", n)
	}
	m, err := unix.Mmap(kept[0], 0, 4096, unix.PROT_READ, unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	closeAll()
	x.clear()
	if len(x.all) != 1 {
		t.Errorf("%d files with one mapped", len(x.all))
	}
	unix.Munmap(m)
	if x.clear(); len(x.all) != 0 {
		t.Errorf("%d files with none open", len(x.all))
	}
	if _, err := x.open("mountinfo", strings.Repeat("x", maxText+1)); !errors.Is(err, errFull) {
		t.Errorf("too long a text: %v", err)
	}
}
