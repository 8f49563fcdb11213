package api

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/sirupsen/logrus"
)

// lockedBuffer is a buffer that a log may write to while a test reads it.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// TestHub: a subscriber that sleeps keeps nobody, and hears how many it missed, where it missed them.
func TestHub(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h Hub
		events, cancel := h.Subscribe("web")
		other, cancelOther := h.Subscribe("other")
		h.Publish(Event{Kind: EventRestarted})
		if e := <-other; e.Kind != EventRestarted {
			t.Error(e)
		}
		for i := range 1000 {
			h.Publish(Event{Kind: EventDenied, Guest: "web", Pid: i})
		}
		synctest.Wait()
		var told, dropped uint64
		read := func(n int) {
			for range n {
				if e := <-events; e.Kind == EventDropped {
					dropped += e.Count
				} else {
					told++
				}
			}
		}
		read(100)
		if dropped != 0 {
			t.Error("dropped is told before what came earlier")
		}
		h.Publish(Event{Kind: EventDenied, Guest: "web", Pid: 1000})
		synctest.Wait()
		for quiet := false; !quiet; {
			select {
			case e := <-events:
				if e.Kind == EventDropped {
					dropped += e.Count
				} else {
					told++
					if e.Pid == 1000 && dropped == 0 {
						t.Error("dropped is told after what came later")
					}
				}
			default:
				quiet = true
			}
			synctest.Wait()
		}
		if told+dropped != 1002 || told < hubBuffer || told > hubBuffer+2 { // one is in the goroutine's hand
			t.Errorf("%d told, %d dropped", told, dropped)
		}
		for range 300 { // dropped last, and nothing after it
			h.Publish(Event{Kind: EventDenied, Guest: "web"})
		}
		told, dropped = 0, 0
		for told+dropped < 300 {
			read(1)
		}
		select {
		case e := <-other:
			t.Error(e, "is another guest's")
		default:
		}
		cancel()
		cancel()
		cancelOther()
		if _, more := <-events; more {
			t.Error("the channel is not closed")
		}
	})
}

// TestHubRace: the race detector looks on.
func TestHubRace(t *testing.T) {
	var h Hub
	var wg sync.WaitGroup
	var sum, count atomic.Uint64
	for range 4 {
		events, cancel := h.Subscribe("")
		wg.Go(func() {
			for e := range events {
				if e.Kind == EventDropped {
					sum.Add(e.Count)
				} else if sum.Add(1); e.Kind == EventGone {
					cancel()
				}
			}
			count.Add(1)
		})
	}
	var publishers sync.WaitGroup
	for range 4 {
		publishers.Go(func() {
			for range 2000 {
				h.Publish(Event{Kind: EventDenied})
			}
		})
	}
	publishers.Wait()
	for count.Load() < 4 {
		h.Publish(Event{Kind: EventGone})
		time.Sleep(time.Millisecond)
	}
	wg.Wait()
	if sum.Load() < 4*8000 {
		t.Errorf("%d of %d are told or counted", sum.Load(), 4*8000)
	}
}

// counts of what an auditor said of each guest.
type counts struct{ told, dropped, droppedLines uint64 }

func collect(t *testing.T, h *Hub) (read func() map[string]*counts, cancel func()) {
	events, cancel := h.Subscribe("")
	all := map[string]*counts{}
	return func() map[string]*counts {
		for {
			synctest.Wait()
			select {
			case e := <-events:
				c := all[e.Guest]
				if c == nil {
					c = &counts{}
					all[e.Guest] = c
				}
				if e.Kind == EventDropped {
					c.dropped += e.Count
					c.droppedLines++
				} else {
					c.told++
				}
			default:
				return all
			}
		}
	}, cancel
}

// TestAuditor: the rate holds for each guest alone, what is dropped is counted once a second and to the last.
func TestAuditor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var hub Hub
		var log lockedBuffer
		l := logrus.New()
		l.SetOutput(&log)
		a := NewAuditor(AuditConfig{Log: logrus.NewEntry(l), Hub: &hub, Metrics: NewMetrics("x", func() Totals { return Totals{} })})
		read, cancel := collect(t, &hub)
		defer cancel()
		loud, quiet := a.Guest("loud"), a.Guest("quiet")
		for range 100 {
			loud.Tell(Event{Kind: EventDenied, Operation: "open", Path: "/memory.max", Rule: "boundary", UID: 0, Pid: 7}, nil)
		}
		quiet.Tell(Event{Kind: EventQuota, Operation: "mkdir"}, nil)
		got := read()
		if *got["loud"] != (counts{told: 20}) || *got["quiet"] != (counts{told: 1}) {
			t.Errorf("%+v, %+v", got["loud"], got["quiet"])
		}
		time.Sleep(dropInterval + time.Millisecond) // the guest is quiet, and its count is told
		if got = read(); *got["loud"] != (counts{20, 80, 1}) {
			t.Errorf("%+v", got["loud"])
		}
		for range 5000 { // 5 s at 1,000 a second
			loud.Tell(Event{Kind: EventDenied}, nil)
			time.Sleep(time.Millisecond)
			if len(a.queue) == 0 {
				read()
			}
		}
		time.Sleep(2 * dropInterval)
		c := read()["loud"]
		if c.told+c.dropped != 5100 || c.told < 20+50 || c.told > 20+50+20 || c.droppedLines > 8 {
			t.Errorf("%+v", c)
		}
		for range 50 {
			loud.Tell(Event{Kind: EventDenied}, nil)
		}
		a.Close() // tells what is left
		if c := read()["loud"]; c.told+c.dropped != 5150 {
			t.Errorf("%+v", c)
		}
		text := log.String()
		for _, want := range []string{"level=warning msg=denied guest=loud operation=open path=/memory.max pid=7 rule=boundary uid=0", "msg=quota guest=quiet",
			"msg=dropped count=80 guest=loud"} {
			if !strings.Contains(text, want) {
				t.Errorf("no line %q in %.500s", want, text)
			}
		}
	})
}

// TestAuditorStrangers: who is not in the guest uses up half of what is told of it at once, and the guest has the rest.
func TestAuditorStrangers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var hub Hub
		l := logrus.New()
		l.SetOutput(io.Discard)
		a := NewAuditor(AuditConfig{Log: logrus.NewEntry(l), Hub: &hub, PerSecond: 10, Burst: 20})
		defer a.Close()
		read, cancel := collect(t, &hub)
		defer cancel()
		g := a.Guest("web")
		asked := 0
		for range 1000 {
			g.TellOf(Event{Kind: EventDenied}, nil, func() bool { asked++; return true })
		}
		if got := read()["web"]; got.told != 10 || asked != 990 {
			t.Errorf("of strangers: %+v, asked %d times", got, asked)
		}
		asked = 0
		for range 1000 {
			g.TellOf(Event{Kind: EventDenied}, nil, func() bool { asked++; return false })
		}
		if got := read()["web"]; got.told != 20 || asked != 10 {
			t.Errorf("with the guest's own: %+v, asked %d times", got, asked)
		}
	})
}

// TestAuditorStuckLog: a log that nobody reads keeps no guest, and loses no count.
func TestAuditorStuckLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var hub Hub
		r, w := io.Pipe()
		l := logrus.New()
		l.SetOutput(w)
		a := NewAuditor(AuditConfig{Log: logrus.NewEntry(l), Hub: &hub, PerSecond: 1000, Burst: 1_000_000})
		read, cancel := collect(t, &hub)
		defer cancel()
		g := a.Guest("web")
		for range 10_000 {
			g.Tell(Event{Kind: EventDenied}, nil)
		}
		go io.Copy(io.Discard, r) // it is read again
		for range 100 {
			read()
			time.Sleep(dropInterval / 10)
		}
		a.Close()
		all := read() // what the subscriber was too slow for is no guest's
		if sum := all["web"].told + all["web"].dropped + all[""].dropped; sum != 10_000 {
			t.Errorf("%d: %+v, %+v", sum, all["web"], all[""])
		}
		r.Close()
	})
}

// TestAuditorRace: from many threads, every denial is told or counted.
func TestAuditorRace(t *testing.T) {
	var hub Hub
	a := NewAuditor(AuditConfig{Log: quiet(), Hub: &hub})
	events, cancel := hub.Subscribe("")
	var sum atomic.Uint64
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for e := range events {
			if e.Kind == EventDropped {
				sum.Add(e.Count)
			} else {
				sum.Add(1)
			}
		}
	}()
	var wg sync.WaitGroup
	for i := range 4 {
		g := a.Guest(fmt.Sprint(i % 2))
		wg.Go(func() {
			for range 20_000 {
				g.Tell(Event{Kind: EventDenied}, nil)
			}
		})
	}
	wg.Wait()
	a.Close()
	eventually(t, "all are told or counted", func() bool { return sum.Load() == 80_000 })
	cancel()
	<-ended
	if size := unsafe.Sizeof(GuestAudit{}); size > 64 {
		t.Errorf("a guest's part is %d bytes", size)
	}
}

func BenchmarkTellDropped(b *testing.B) {
	var hub Hub
	a := NewAuditor(AuditConfig{Log: quiet(), Hub: &hub})
	defer a.Close()
	g := a.Guest("web")
	for b.Loop() {
		g.Tell(Event{Kind: EventDenied}, nil)
	}
}
