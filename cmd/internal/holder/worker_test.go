package holder

import (
	"errors"
	"io"
	"strings"
	"testing"
	"time"
)

// TestPrepare: a worker is sent what is kept and a Start; one that is not wanted any more hears of it.
func TestPrepare(t *testing.T) {
	holder, ours := pair(t)
	w := newWorker(ours)
	fd := memfd("kept")
	err := errors.Join(
		holder.sendHeld([]item{{1, 2}}, []int{fd}),
		holder.send(message{kind: msgStart, text: []byte(`{"restarts":3,"settings":{"a":1},"types":{"loaded":true}}`)}),
		holder.send(message{kind: msgDrain}))
	if err != nil {
		t.Fatal(err)
	}
	start, held, err := w.Prepare()
	if err != nil || start.Restarts != 3 || string(start.Settings) != `{"a":1}` || !w.Types().Loaded {
		t.Errorf("%+v, %v", start, err)
	}
	if len(held[1]) != 1 || textOf(held[1][2]) != "kept" {
		t.Errorf("kept: %v", held)
	}
	if _, _, err := w.Prepare(); !errors.Is(err, io.EOF) {
		t.Errorf("when it is not wanted: %v", err)
	}
	buf, oob := receiveBuffers()
	if m, err := holder.receive(buf, oob); err != nil || m.kind != msgPrepared {
		t.Errorf("%+v, %v", m, err)
	}
	holder.close()
	if _, _, err := w.Prepare(); err == nil {
		t.Error("no error without a holder")
	}
}

// TestWorkerUpgrade: the worker that asked for an upgrade hears why it stays, or is drained, or waits no longer than it
// wants.
func TestWorkerUpgrade(t *testing.T) {
	holder, ours := pair(t)
	w := newWorker(ours)
	w.result <- "of an upgrade before"
	drained, stopped, followed := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() { followed <- w.Follow(func() { close(drained) }, func() { close(stopped) }) }()
	answer := func(m message) {
		buf, oob := receiveBuffers()
		if got, err := holder.receive(buf, oob); err != nil || got.kind != msgUpgrade || string(got.text) != "/new" {
			t.Errorf("%+v, %v", got, err)
		}
		if m.kind != 0 {
			_ = holder.send(m)
		}
	}
	go answer(message{kind: msgResult, text: []byte("it stays")})
	if err := w.Upgrade("/new", nil); err == nil || err.Error() != "it stays" {
		t.Errorf("refused: %v", err)
	}
	done := make(chan struct{})
	close(done)
	if err := w.Upgrade("/new", done); err == nil || !strings.Contains(err.Error(), "cannot wait") {
		t.Errorf("not waited for: %v", err)
	}
	answer(message{})
	go answer(message{kind: msgDrain})
	if err := w.Upgrade("/new", nil); err != nil {
		t.Errorf("upgraded: %v", err)
	}
	<-drained
	if err := holder.send(message{kind: msgStop}); err != nil {
		t.Fatal(err)
	}
	<-stopped
	holder.close()
	select {
	case err := <-followed:
		if err == nil {
			t.Error("the link's end is no error")
		}
	case <-time.After(patience):
		t.Error("it follows a holder that has ended")
	}
	if err := w.Upgrade("/new", nil); err == nil {
		t.Error("no error without a holder")
	}
}

// TestAnswererFollows: an answerer is sent listeners and settings, and does what the holder says.
func TestAnswererFollows(t *testing.T) {
	holder, ours := pair(t)
	a := &Answerer{link: ours}
	err := errors.Join(
		holder.sendListener(Listener{5, memfd("listener"), "word"}),
		holder.send(message{kind: msgStart, text: []byte(`{"a":1}`)}))
	if err != nil {
		t.Fatal(err)
	}
	kept, err := a.prepare()
	if err != nil || len(kept) != 1 || string(a.Settings) != `{"a":1}` {
		t.Fatalf("%+v, %s, %v", kept, a.Settings, err)
	}
	if l := kept[0]; l.Key != 5 || l.Word != "word" || textOf(l.FD) != "listener" {
		t.Errorf("%+v", l)
	}
	drained, left, followed := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() { followed <- a.Follow(func() { close(drained) }, func() { close(left) }) }()
	if err := errors.Join(holder.send(message{kind: msgDrain}), holder.send(message{kind: msgStop})); err != nil {
		t.Fatal(err)
	}
	<-drained
	<-left
	if err := errors.Join(a.Hold(Listener{6, kept[0].FD, "w"}), a.Left()); err != nil {
		t.Error(err)
	}
	a.Drop(6)
	holder.close()
	a.Serves() // returns, for the holder is gone
	if err := <-followed; err == nil {
		t.Error("the link's end is no error")
	}
	if _, err := a.prepare(); err == nil {
		t.Error("no error without a holder")
	}
}
