package notify

import (
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// TestOpens: opens of the caller's cgroup file are answered, all others are the kernel's, however many threads make them.
func TestOpens(t *testing.T) {
	if !ownProc() {
		t.Skip("machine: /proc is another pid namespace's")
	}
	kernel, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	line, _, _ := strings.Cut(string(kernel), "\n")
	words := strings.SplitN(line, ":", 3)
	h := hierarchy.Hierarchy{Version: hierarchy.V2}
	if words[0] != "0" {
		h = hierarchy.Hierarchy{Version: hierarchy.V1, Controllers: []string{"ours"}}
		for _, digit := range words[0] {
			h.ID = h.ID*10 + int(digit-'0')
		}
	}
	view := &View{Root: -1, Mounts: -1, Parts: []Part{{Hierarchy: h, Host: h, Boundary: "/"}}}
	want := cgroupText([]position{{h, words[2]}})
	served := make(chan error, 1)
	onFiltered(t, Rules{Proc: true}, func(l *os.File) {
		go func() { served <- (&Supervisor{Guest: view, Proc: view}).Serve(l, nil) }()
	}, func() {
		for range 200 {
			for path, want := range map[string]string{"/proc/self/cgroup": want, "/proc/thread-self/cgroup": want, "/proc/self/comm": "*", "opens_test.go": "*", "none": ""} {
				fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
				if errors.Is(err, unix.ENOENT) && want == "" {
					continue
				}
				if err != nil {
					t.Errorf("%s: %v", path, err)
					return
				}
				f := os.NewFile(uintptr(fd), path)
				got, err := io.ReadAll(f)
				f.Close()
				if err != nil || string(got) != want && want != "*" {
					t.Errorf("%s: %q, %v; want %q", path, got, err, want)
				}
			}
		}
		// Go starts other threads from this one, or from one without a filter.
		var wait sync.WaitGroup
		for range 4 {
			wait.Go(func() {
				for range 100 {
					if _, err := os.ReadFile("opens_test.go"); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wait.Wait()
	})
	if err := <-served; err != nil {
		t.Errorf("after the last thread: %v", err)
	}
}

// TestOpenBlocked: a path that cannot be read keeps no other call waiting, and is passed on after the time.
func TestOpenBlocked(t *testing.T) {
	guest, _ := newFake(t)
	x := (&Supervisor{Guest: guest, Timeout: 1}).at(nil, -1)
	x.free = make(chan *Request, 1)
	slot := &Request{ID: 1}
	c := &Caller{server: x, Request: *slot, slot: slot}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		x.watchLook(c)
	}()
	if freed := <-x.free; freed != slot || slot.ID != 0 {
		t.Errorf("freed %+v", freed)
	}
	if c.claim() {
		t.Error("the call is not settled")
	}
	c.looked.Store(true)
	<-ended
}
