package conn

import (
	"os"
	"runtime"
	"sync/atomic"
	"testing"
	"time"
)

// TestRestPolls: while a goroutine rests another one runs whose descriptor has become readable, which Go's scheduler knows from
// a poll alone. With one processor and no rest it would run when the runtime's monitor polls, after 10 ms.
func TestRestPolls(t *testing.T) {
	defer closeSpareNaps()
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	defer r.Close()
	var got atomic.Int32
	go func() {
		b := make([]byte, 1)
		for {
			if _, err := r.Read(b); err != nil {
				return
			}
			got.Add(1)
		}
	}()
	time.Sleep(time.Millisecond) // the reader waits
	const rounds, restsEach = 100, 3
	missed := 0
	for n := range int32(rounds) {
		if _, err := w.Write([]byte{0}); err != nil {
			t.Fatal(err)
		}
		for range restsEach {
			rest(time.Nanosecond)
		}
		if got.Load() <= n {
			missed++
			for got.Load() <= n {
				time.Sleep(time.Millisecond)
			}
		}
	}
	if missed > rounds/10 {
		t.Errorf("in %d of %d rounds the reader had not run after %d rests", missed, rounds, restsEach)
	}
}

// TestRestDescriptors: timers are used again, and few are kept.
func TestRestDescriptors(t *testing.T) {
	defer closeSpareNaps()
	count := func() int {
		all, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	rest(time.Nanosecond) // opens what Go's poller needs
	before := count()
	done := make(chan bool)
	const many = 4 * maxSpareNaps
	for range many {
		go func() {
			for range 10 {
				rest(time.Millisecond)
			}
			done <- true
		}()
	}
	for range many {
		<-done
	}
	if more := count() - before; more > maxSpareNaps {
		t.Errorf("%d descriptors more than before, at most %d are kept", more, maxSpareNaps)
	}
}

// closeSpareNaps leaves no descriptor behind.
func closeSpareNaps() {
	for _, n := range spareNaps.all {
		n.file.Close()
	}
	spareNaps.all = nil
}
