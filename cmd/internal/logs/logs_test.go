package logs

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience is how long a test waits for what is to come.
const patience = 30 * time.Second

// onPipe makes a writer for a pipe, whose write end stays open until the test's end.
func onPipe(t *testing.T) (*Writer, *os.File) {
	t.Helper()
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	r := os.NewFile(uintptr(fds[0]), "reader")
	t.Cleanup(func() { r.Close(); unix.Close(fds[1]) })
	return New(fds[1], func(n uint64) []byte { return fmt.Appendf(nil, "lost %d\n", n) }), r
}

// TestOrder: lines arrive whole and in order, and Flush waits for them.
func TestOrder(t *testing.T) {
	w, r := onPipe(t)
	want := ""
	for i := range 100 {
		fmt.Fprintf(w, "line %d\n", i)
		want += fmt.Sprintf("line %d\n", i)
	}
	w.Flush(patience)
	got := make([]byte, len(want))
	if _, err := io.ReadFull(r, got); err != nil || string(got) != want {
		t.Errorf("%q, %v", got, err)
	}
}

// TestFull: a reader that does not read costs the writer nothing but lines, all of which are counted when it reads again.
func TestFull(t *testing.T) {
	w, r := onPipe(t)
	const lines, size = 5000, 100
	text := bytes.Repeat([]byte("x"), size-1)
	began := time.Now()
	for range lines {
		fmt.Fprintf(w, "%s\n", text)
	}
	w.Flush(10 * time.Millisecond)
	if took := time.Since(began); took > patience {
		t.Errorf("writing took %v", took)
	}
	in := bufio.NewReader(r)
	got, lost := 0, 0
	for got+lost < lines {
		s, err := in.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		var n int
		if _, err := fmt.Sscanf(s, "lost %d\n", &n); err == nil {
			lost += n
		} else if s == string(text)+"\n" {
			got++
		} else {
			t.Fatalf("%q", s)
		}
	}
	if lost == 0 || got*size < queueBytes-size {
		t.Errorf("%d lines arrived and %d are lost", got, lost)
	}
	fmt.Fprintln(w, "after")
	if s, err := in.ReadString('\n'); err != nil || s != "after\n" {
		t.Errorf("%q, %v", s, err)
	}
}

// TestGone: without a reader lines are lost and counted, and nothing else happens.
func TestGone(t *testing.T) {
	path := t.TempDir() + "/fifo"
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	open := func(flags int) int {
		fd, err := unix.Open(path, flags|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		return fd
	}
	reader := open(unix.O_RDONLY)
	fd := open(unix.O_WRONLY)
	defer unix.Close(fd)
	unix.Close(reader)
	w := New(fd, func(n uint64) []byte { return fmt.Appendf(nil, "lost %d\n", n) })
	for range 10 {
		fmt.Fprintln(w, "nobody reads this")
		w.Flush(patience)
	}
	r := os.NewFile(uintptr(open(unix.O_RDONLY)), "reader")
	defer r.Close()
	r.SetReadDeadline(time.Now().Add(patience))
	fmt.Fprintln(w, "somebody reads this")
	in := bufio.NewReader(r)
	var said strings.Builder
	for range 2 {
		s, err := in.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		said.WriteString(s)
	}
	if said.String() != "lost 10\nsomebody reads this\n" {
		t.Errorf("%q", said.String())
	}
}
