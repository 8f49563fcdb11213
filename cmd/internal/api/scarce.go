package api

import (
	"bytes"
	"net/http"
	"sync"
	"time"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
)

// What is scarce, and asked for by many: streams, which keep a connection's place for as long as their clients like, and the metrics,
// which cost more to make than to ask for.

// Half of the connections may be streams, so that there is always a place for a call. One user who is not root has a quarter of what
// all of those have.
const (
	rootStreams  = rootConns / 2
	otherStreams = otherConns / 2
	userStreams  = otherStreams / 4
)

// pingInterval is how often a stream on which nothing happens has an empty line.
const pingInterval = 30 * time.Second

// streams counts the streams of events. The zero streams is ready.
type streams struct {
	mu    sync.Mutex
	users map[uint32]int // guarded by mu; streams of each uid that has one
	other int            // guarded by mu; of all but root
}

// begin counts a stream; end gives its place back. fault.Busy when there are enough.
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

// keptFor is how long an answer is given again.
const keptFor = time.Second

// keptAnswer answers as another handler does, which it asks once at a time and once in keptFor at most, whatever the request.
type keptAnswer struct {
	made http.Handler // immutable

	mu   sync.Mutex
	last record    // guarded by mu
	at   time.Time // guarded by mu; when last was made
}

// record is an answer, as the ResponseWriter that it is written to.
type record struct {
	header http.Header
	status int
	body   bytes.Buffer
}

// Header is the answer's.
func (r *record) Header() http.Header { return r.header }

// WriteHeader keeps the status.
func (r *record) WriteHeader(status int) { r.status = status }

// Write keeps a part of the body.
func (r *record) Write(p []byte) (int, error) { return r.body.Write(p) }

// answer is the one to give now. It is changed no more.
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

// ServeHTTP answers.
func (k *keptAnswer) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	a := k.answer()
	for name, values := range a.header {
		w.Header()[name] = values
	}
	w.WriteHeader(a.status)
	w.Write(a.body.Bytes())
}
