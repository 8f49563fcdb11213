package api

import (
	"sync"
	"time"
)

// hubBuffer bounds the events that wait for a slow subscriber.
const hubBuffer = 256

// Hub passes events on to subscribers. The zero Hub is ready. Any goroutine may call any method, and none waits for a
// subscriber.
type Hub struct {
	mu          sync.Mutex
	subscribers map[*subscriber]struct{} // guarded by mu
}

// subscriber is one subscription. Its goroutine delivers the pending events.
type subscriber struct {
	guest  string
	events chan Event
	wake   chan struct{} // one slot, filled when an event is pending
	done   chan struct{}

	mu      sync.Mutex
	pending []Event // guarded by mu
	dropped uint64  // guarded by mu; after the last of pending
}

// Subscribe returns the events from now on until cancel is called, which closes the channel: those of one guest and
// those of no guest, or with "" all. A slow subscriber misses some, and gets their count in an EventDropped in their
// place.
func (h *Hub) Subscribe(guest string) (events <-chan Event, cancel func()) {
	return h.SubscribeAfter(guest)
}

// SubscribeAfter is Subscribe with some events before all others.
func (h *Hub) SubscribeAfter(guest string, first ...Event) (events <-chan Event, cancel func()) {
	s := &subscriber{guest: guest, events: make(chan Event), wake: make(chan struct{}, 1), done: make(chan struct{})}
	for _, e := range first {
		s.add(e)
	}
	h.mu.Lock()
	if h.subscribers == nil {
		h.subscribers = map[*subscriber]struct{}{}
	}
	h.subscribers[s] = struct{}{}
	h.mu.Unlock()
	go s.run()
	return s.events, sync.OnceFunc(func() {
		h.mu.Lock()
		delete(h.subscribers, s)
		h.mu.Unlock()
		close(s.done)
	})
}

// Listening reports that the hub has a subscriber.
func (h *Hub) Listening() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.subscribers) > 0
}

// Publish passes an event on. An event without a time gets the present.
func (h *Hub) Publish(e Event) {
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for s := range h.subscribers {
		if s.guest == "" || e.Guest == "" || s.guest == e.Guest {
			s.add(e)
		}
	}
}

func (s *subscriber) add(e Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	room := hubBuffer - len(s.pending)
	if s.dropped > 0 {
		// Room for the EventDropped.
		room--
	}
	if room <= 0 {
		s.dropped++
		if e.Kind == EventDropped && e.Count > 0 {
			// The events that it counts are dropped too.
			s.dropped += e.Count - 1
		}
		return
	}
	if s.dropped > 0 {
		s.pending = append(s.pending, s.droppedEvent())
	}
	s.pending = append(s.pending, e)
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// droppedEvent returns the EventDropped for the dropped events. Called with mu held.
func (s *subscriber) droppedEvent() Event {
	e := Event{Time: time.Now(), Kind: EventDropped, Guest: s.guest, Count: s.dropped,
		Reason: "the subscriber does not keep up"}
	s.dropped = 0
	return e
}

// next takes the oldest pending event.
func (s *subscriber) next() (Event, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case len(s.pending) > 0:
		e := s.pending[0]
		if s.pending = s.pending[1:]; len(s.pending) == 0 {
			// Frees the array.
			s.pending = nil
		}
		return e, true
	case s.dropped > 0:
		return s.droppedEvent(), true
	}
	return Event{}, false
}

func (s *subscriber) run() {
	defer close(s.events)
	for {
		e, ok := s.next()
		if !ok {
			select {
			case <-s.wake:
				continue
			case <-s.done:
				return
			}
		}
		select {
		case s.events <- e:
		case <-s.done:
			return
		}
	}
}
