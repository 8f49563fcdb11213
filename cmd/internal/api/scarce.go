package api

import (
	"bytes"
	"net/http"
	"sync"
	"time"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
)

// Bounds on scarce resources with many users: streams, which keep a connection's slot as long as their clients like,
// and the metrics, which cost more to make than to request.

// Half of the connections may be streams, so that a call always finds a slot. One user other than root has a quarter of
// all such users' streams.
const (
	rootStreams  = rootConns / 2
	otherStreams = otherConns / 2
	userStreams  = otherStreams / 4
)

// pingInterval is the pause between empty lines on a quiet stream.
const pingInterval = 30 * time.Second

// streams counts the streams of events. The zero streams is ready.
type streams struct {
	mu    sync.Mutex
	users map[uint32]int // guarded by mu; streams of each uid with one
	other int            // guarded by mu; of all but root
}

// begin counts a stream; end gives its slot back. fault.Busy at the bound.
func (s *streams) begin(uid uint32) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	most := userStreams
	if uid == 0 {
		most = rootStreams
	}
	if s.users[uid] >= most {
		return fault.New(fault.Busy,
			"uid %d follows events %d times already, which is all that it may: end one", uid, most)
	}
	if uid != 0 && s.other >= otherStreams {
		return fault.New(fault.Busy,
			"users other than root follow events %d times already, which is all that they may", otherStreams)
	}
	if s.users == nil {
		s.users = map[uint32]int{}
	}
	s.users[uid]++
	if uid != 0 {
		s.other++
	}
	return nil
}

func (s *streams) end(uid uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users[uid]--; s.users[uid] == 0 {
		delete(s.users, uid)
	}
	if uid != 0 {
		s.other--
	}
}

// keptFor is the time for which an answer is reused.
const keptFor = time.Second

// keptAnswer reuses the answer of another handler. It calls that handler one request at a time, and at most once in
// keptFor.
type keptAnswer struct {
	made http.Handler // immutable

	mu   sync.Mutex
	last record    // guarded by mu
	at   time.Time // guarded by mu; time of last
}

// record is a recorded answer. It is the ResponseWriter of the handler.
type record struct {
	header http.Header
	status int
	body   bytes.Buffer
}

// Header returns the answer's header.
func (r *record) Header() http.Header { return r.header }

// WriteHeader stores the status.
func (r *record) WriteHeader(status int) { r.status = status }

// Write stores a part of the body. It never fails.
func (r *record) Write(p []byte) (int, error) { return r.body.Write(p) }

// answer returns the present answer, which does not change any more.
func (k *keptAnswer) answer() record {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.at.IsZero() || time.Since(k.at) >= keptFor {
		k.last = record{header: http.Header{}, status: http.StatusOK}
		k.made.ServeHTTP(&k.last, &http.Request{Method: http.MethodGet, Header: http.Header{}})
		k.at = time.Now()
	}
	return k.last
}

// ServeHTTP sends the present answer.
func (k *keptAnswer) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	a := k.answer()
	for name, values := range a.header {
		w.Header()[name] = values
	}
	w.WriteHeader(a.status)
	w.Write(a.body.Bytes())
}
