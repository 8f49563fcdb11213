package conn

import (
	"testing"
	"time"
)

// TestSlots: a connection that fills every place keeps no other from its own.
func TestSlots(t *testing.T) {
	slots := NewSlots(2)
	var greedy, other slowPool
	greedy.init(8, slots)
	other.init(8, slots)
	var leave []func()
	for range 3 { // its own and both others
		l, ok := greedy.enter()
		if !ok {
			t.Fatal("refused")
		}
		leave = append(leave, l)
	}
	entered := make(chan bool, 1)
	go func() {
		_, ok := greedy.enter()
		entered <- ok
	}()
	l, ok := other.enter()
	if !ok {
		t.Fatal("the other connection is refused")
	}
	l()
	select {
	case <-entered:
		t.Error("a fourth place was given")
	case <-time.After(10 * time.Millisecond):
	}
	leave[0]()
	if !<-entered {
		t.Error("a free place was not given")
	}
	for range 3 { // full again
		go func() {
			_, ok := greedy.enter()
			entered <- ok
		}()
	}
	time.Sleep(5 * time.Millisecond)
	greedy.close()
	for range 3 {
		if <-entered {
			t.Error("a closed pool gives places")
		}
	}
}

// TestPace: an idle second's worth comes at once, more than that waits its turn.
func TestPace(t *testing.T) {
	p, now := pace{rate: 1000}, time.Now()
	for i := range 1000 {
		if late := p.due(now); late > 0 {
			t.Fatalf("request %d waits %v", i, late)
		}
	}
	var late time.Duration
	for range 200 {
		late = p.due(now)
	}
	if late != 200*time.Millisecond {
		t.Errorf("200 more wait %v", late)
	}
	if none := (&pace{}); none.due(now) != 0 {
		t.Error("without a rate one waits")
	}
}

func TestResent(t *testing.T) {
	if first, again := Resent(42 | resendBit); first != 42 || !again {
		t.Error(first, again)
	}
	if first, again := Resent(42); first != 42 || again {
		t.Error(first, again)
	}
}
