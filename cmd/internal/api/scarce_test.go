package api

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
)

// connect makes connections that end with the test.
func connect(t *testing.T, network, address string, n int) (all []net.Conn) {
	t.Helper()
	for range n {
		c, err := net.Dial(network, address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		all = append(all, c)
	}
	return all
}

// isClosed says whether the other end has closed a connection.
func isClosed(c net.Conn) bool {
	c.SetReadDeadline(time.Now().Add(time.Millisecond))
	_, err := c.Read(make([]byte, 1))
	return err != nil && !os.IsTimeout(err)
}

// TestSilent: connections that ask nothing take no call's place for long, and are let go by themselves.
func TestSilent(t *testing.T) {
	socket, _ := served(t, Config{Backend: &fake{}})
	held := connect(t, "unix", socket, rootConns)
	eventually(t, "one makes room", func() bool {
		status, _, _ := ask(socket, "GET", "/healthz", "")
		return status == 200
	})
	closed := 0
	for _, c := range held {
		if isClosed(c) {
			closed++
		}
	}
	if closed == 0 || closed == rootConns {
		t.Errorf("%d of %d connections are closed", closed, rootConns)
	}
	last := held[rootConns-1]
	last.SetReadDeadline(time.Now().Add(10 * headerTimeout))
	if _, err := last.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
		t.Errorf("a silent connection is kept: %v", err)
	}
}

// TestIdle: the connection that has been without a request for the longest time makes room, and no other does.
func TestIdle(t *testing.T) {
	socket, _ := served(t, Config{Backend: &fake{}})
	held := connect(t, "unix", socket, rootConns)
	for _, c := range held {
		io.WriteString(c, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
		if answer, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || answer.StatusCode != 200 {
			t.Fatal(answer, err)
		}
		time.Sleep(time.Millisecond) // in which it becomes idle: the order is what is tested
	}
	if status, _, err := ask(socket, "GET", "/healthz", ""); status != 200 {
		t.Error(status, err)
	}
	eventually(t, "the first one is closed", func() bool { return isClosed(held[0]) })
	for i, c := range held[10:] {
		if isClosed(c) {
			t.Errorf("connection %d is closed", i+10)
		}
	}
}

// TestStreamsLeaveRoom: however many follow events, calls are answered; the streams that are too many are told so.
func TestStreamsLeaveRoom(t *testing.T) {
	backend := &fake{}
	socket, _ := served(t, Config{Backend: backend})
	followed, busy := 0, 0
	for _, c := range connect(t, "unix", socket, rootConns) {
		io.WriteString(c, "GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
		answer, err := http.ReadResponse(bufio.NewReader(c), nil)
		switch {
		case err != nil:
			t.Fatal(err)
		case answer.StatusCode == 200:
			followed++
		case answer.StatusCode == http.StatusServiceUnavailable:
			busy++
		default:
			t.Error(answer.Status)
		}
	}
	if followed != rootStreams || busy != rootConns-rootStreams {
		t.Errorf("%d follow, %d are told that they are too many", followed, busy)
	}
	for range 3 {
		if status, body, err := ask(socket, "GET", "/v1/guests", ""); status != 200 {
			t.Errorf("a call: %d, %s, %v", status, body, err)
		}
	}
	status, body, err := ask(socket, "GET", "/v1/events", "")
	if status != http.StatusServiceUnavailable || !strings.Contains(body, `"busy"`) || !strings.Contains(body, "end one") {
		t.Errorf("one stream more: %d, %s, %v", status, body, err)
	}
}

// TestStreamBounds: each user has a bound, all but root have one together, and what ends gives its place back.
func TestStreamBounds(t *testing.T) {
	var s streams
	full := func(uid uint32) int {
		for n := 0; ; n++ {
			err := s.begin(uid)
			if err == nil {
				continue
			}
			if fault.Of(err) != fault.Busy {
				t.Error(err)
			}
			return n
		}
	}
	for _, c := range []struct {
		uid  uint32
		want int
	}{{1, userStreams}, {2, userStreams}, {3, userStreams}, {0, rootStreams}, {4, userStreams}, {5, 0}} {
		if got := full(c.uid); got != c.want {
			t.Errorf("uid %d may follow %d times, want %d", c.uid, got, c.want)
		}
	}
	s.end(1)
	if got := full(5); got != 1 {
		t.Errorf("after one ended uid 5 may follow %d times", got)
	}
}

// TestKeptAnswer: what costs much is made once for all who ask within a second, by one at a time, whatever they ask for.
func TestKeptAnswer(t *testing.T) {
	var made, now atomic.Int32
	k := &keptAnswer{made: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if now.Add(1) > 1 || len(r.Header) > 0 {
			t.Errorf("asked %d at once, with %v", now.Load(), r.Header)
		}
		time.Sleep(20 * time.Millisecond)
		now.Add(-1)
		w.Header().Set("X-Made", "yes")
		w.WriteHeader(http.StatusTeapot)
		fmt.Fprint(w, made.Add(1))
	})}
	ask := func() string {
		w := httptest.NewRecorder()
		r := httptest.NewRequest("GET", "/metrics", nil)
		r.Header.Set("Accept-Encoding", "gzip")
		k.ServeHTTP(w, r)
		return fmt.Sprint(w.Code, w.Header(), w.Body)
	}
	start := time.Now()
	first := ask()
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			if got := ask(); got != first && time.Since(start) < keptFor {
				t.Errorf("%q, %q before", got, first)
			}
		})
	}
	all.Wait()
	if first != "418 map[X-Made:[yes]] 1" {
		t.Errorf("%q", first)
	}
	eventually(t, "another answer", func() bool { return ask() != first })
	if took := time.Since(start); took < keptFor {
		t.Errorf("made anew after %v", took)
	}
}

// TestProbesPaced: on the loopback interface requests are answered at a rate that all share, and none is lost.
func TestProbesPaced(t *testing.T) {
	l, err := ListenLoopback("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serveAt(t, Config{Backend: &fake{}, Log: quiet()}, t.TempDir()+"/s", l)
	client := &http.Client{}
	const requests = 2*probeRate + 20
	start := time.Now()
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range requests / 4 {
				answer, err := client.Get("http://" + l.Addr().String() + "/healthz")
				if err != nil {
					t.Error(err)
					return
				}
				io.Copy(io.Discard, answer.Body)
				answer.Body.Close()
				if answer.StatusCode != 200 || !answer.Close {
					t.Error(answer.Status, answer.Close)
				}
			}
		})
	}
	all.Wait()
	if took, least := time.Since(start), (requests-probeRate-1)*time.Second/probeRate; took < least {
		t.Errorf("%d requests in %v, want at least %v", requests, took, least)
	}
}

// TestOthersPaced: on the socket the requests of users other than root are answered at a rate, root's at once.
func TestOthersPaced(t *testing.T) {
	h := newHandler(Config{Backend: &fake{}, Log: quiet()})
	ask := func(uid uint32, requests int) time.Duration {
		start := time.Now()
		for range requests {
			r := httptest.NewRequest(http.MethodGet, "/healthz", nil)
			w := httptest.NewRecorder()
			h.serve(routes, w, r.WithContext(context.WithValue(r.Context(), peerKey{}, peer{uid: uid})))
			if w.Code != http.StatusOK {
				t.Fatalf("uid %d: %d %s", uid, w.Code, w.Body)
			}
		}
		return time.Since(start)
	}
	const more = 20
	took, root := ask(1000, otherRate+more), ask(0, otherRate+more)
	if least := (more - 1) * time.Second / otherRate; took < least || root >= took {
		t.Errorf("%d requests of a user in %v, want at least %v; of root in %v", otherRate+more, took, least, root)
	}
}

// TestAbandonedRequests: who asks and goes away does not make the next one wait for all of that.
func TestAbandonedRequests(t *testing.T) {
	var b bucket
	b.init(probeRate, probeRate)
	for range 100 * probeRate {
		b.wait(time.Second)
	}
	if got := b.wait(time.Second); got != longestWait {
		t.Errorf("waits for %v, want %v", got, longestWait)
	}
	if got := b.wait(time.Second + longestWait + b.depth); got != 0 {
		t.Errorf("after a rest, waits for %v", got)
	}
}
