package api

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
)

// Timeouts of a connection. A handler has none: adding a guest may take long, and a stream does not end.
const (
	headerTimeout = 5 * time.Second
	bodyTimeout   = 10 * time.Second
	writeTimeout  = 10 * time.Second // of one answer or event
	idleTimeout   = 2 * time.Minute
	stopTimeout   = 5 * time.Second // for requests under way when the server stops
	silentTimeout = 200 * time.Millisecond
)

// Config configures a server.
type Config struct {
	Backend   Backend
	Metrics   http.Handler  // GET /metrics, (*Metrics).Handler; nil: none
	Healthy   func() error  // GET /healthz, must not wait; nil: always healthy
	Observers int           // gid of the group with read access; 0: only uid 0 has it
	Log       *logrus.Entry // refusals and failures; at level info each requested change
}

// Serve serves the interface on a unix socket and, if loopback is not nil, GET /metrics and GET /healthz there, until
// ctx is done. Then it ends streams, gives requests under way a few seconds, and returns nil. It closes the listeners;
// other descriptors of them stay open. An error for a listener of the wrong kind or address, and one that no longer
// accepts.
func Serve(ctx context.Context, cfg Config, socket, loopback net.Listener) error {
	unixSocket, ok := socket.(*net.UnixListener)
	if !ok {
		return fmt.Errorf("cannot serve on a %s listener: only a unix socket tells who is at its other end",
			socket.Addr().Network())
	}
	// The socket file is the holder's.
	unixSocket.SetUnlinkOnClose(false)
	peers, err := newPeers(cfg.Observers, cfg.Backend.InGuest)
	if err != nil {
		return err
	}
	h := newHandler(cfg)
	servers := []*http.Server{h.server(routes)}
	listeners := []net.Listener{newPeerListener(unixSocket, peers)}
	if loopback != nil {
		if a, ok := loopback.Addr().(*net.TCPAddr); !ok || !a.IP.IsLoopback() {
			return fmt.Errorf("cannot serve probes at %s: it is no address of the loopback interface, as 127.0.0.1:9750 is",
				loopback.Addr())
		}
		servers = append(servers, h.server(probes()))
		listeners = append(listeners, &loopbackListener{Listener: loopback, pool: newPool(loopbackConns)})
	}
	ended := make(chan error, len(servers))
	for i, s := range servers {
		go func() { ended <- s.Serve(listeners[i]) }()
	}
	running := len(servers)
	select {
	case <-ctx.Done():
	case err = <-ended:
		running--
	}
	close(h.stop)
	var wg sync.WaitGroup
	for _, s := range servers {
		wg.Go(func() { h.shutDown(s) })
	}
	wg.Wait()
	for range running {
		<-ended
	}
	if err != nil {
		return fmt.Errorf("cannot go on serving the control interface: %w", err)
	}
	return nil
}

// shutDown lets a server finish its requests. It closes connections without a request: net/http would wait 5 s for one.
func (h *handler) shutDown(s *http.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	defer time.AfterFunc(silentTimeout, h.closeSilent).Stop()
	if s.Shutdown(ctx) != nil {
		s.Close()
	}
}

func (h *handler) closeSilent() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for c := range h.silent {
		c.Close()
	}
}

// noteState updates silent.
func (h *handler) noteState(c net.Conn, state http.ConnState) {
	if c, ok := c.(*conn); ok {
		c.note(state)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if state == http.StateNew {
		h.silent[c] = struct{}{}
	} else {
		delete(h.silent, c)
	}
}

// handler serves requests.
type handler struct {
	cfg      Config
	start    time.Time
	stop     chan struct{} // closed when the server stops
	refusals bucket        // limits log lines: a guest can repeat refused requests at will
	probes   bucket        // limits requests on the loopback interface, open to any user of the host
	others   bucket        // limits requests of all users but root
	streams  streams

	mu     sync.Mutex
	silent map[net.Conn]struct{} // guarded by mu; connections without a request so far
}

func newHandler(cfg Config) *handler {
	h := &handler{cfg: cfg, start: time.Now(), stop: make(chan struct{}), silent: map[net.Conn]struct{}{}}
	h.refusals.init(1, 10)
	h.probes.init(probeRate, probeRate)
	h.others.init(otherRate, otherRate)
	return h
}

func (h *handler) server(table []route) *http.Server {
	return &http.Server{
		Handler:                      http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.serve(table, w, r) }),
		ReadHeaderTimeout:            headerTimeout,
		IdleTimeout:                  idleTimeout,
		MaxHeaderBytes:               16 << 10,
		DisableGeneralOptionsHandler: true,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, peerKey{}, peerOf(c))
		},
		ConnState: h.noteState,
		ErrorLog:  log.New(debugWriter{h.cfg.Log}, "", 0),
	}
}

// debugWriter logs net/http's messages about its clients.
type debugWriter struct{ log *logrus.Entry }

// Write logs one message at level debug. It never fails.
func (d debugWriter) Write(p []byte) (int, error) {
	d.log.Debug(strings.TrimSpace(string(p)))
	return len(p), nil
}

type peerKey struct{}

// begun records that an answer was begun.
type begun struct {
	http.ResponseWriter
	yes bool
}

// WriteHeader begins the answer.
func (b *begun) WriteHeader(status int) {
	b.yes = true
	b.ResponseWriter.WriteHeader(status)
}

// Write begins the answer, if the handler has not begun it yet.
func (b *begun) Write(p []byte) (int, error) {
	b.yes = true
	return b.ResponseWriter.Write(p)
}

// Unwrap gives http.ResponseController the connection.
func (b *begun) Unwrap() http.ResponseWriter { return b.ResponseWriter }

var errPanicked = errors.New("the daemon failed at this request; its log says how")

// serve answers one request. It logs and answers a panic.
func (h *handler) serve(table []route, plain http.ResponseWriter, r *http.Request) {
	w := &begun{ResponseWriter: plain}
	// Clears the deadline of the connection's previous answer.
	http.NewResponseController(w).SetWriteDeadline(time.Time{})
	p, known := r.Context().Value(peerKey{}).(peer)
	if !known {
		p.refused = "cannot tell who you are"
	}
	log := h.cfg.Log.WithFields(logrus.Fields{"method": r.Method, "path": r.URL.Path, "uid": p.uid, "pid": p.pid})
	defer func() {
		panicked := recover()
		if panicked == nil {
			return
		}
		log.WithField("stack", string(debug.Stack())).Errorf("a request to the control interface panicked: %v", panicked)
		if w.yes {
			// The client notices that the answer is incomplete.
			panic(http.ErrAbortHandler)
		}
		answer(w, http.StatusInternalServerError, bodyOf(errPanicked))
	}()
	switch {
	case p.loopback:
		// The connection ends, so that another user's request can come next.
		w.Header().Set("Connection", "close")
		h.pace(&h.probes, r)
	case p.uid != 0:
		h.pace(&h.others, r)
	}
	body, err := h.do(table, w, r, p)
	switch {
	case err != nil:
		kind := fault.Of(err)
		if kind == fault.Forbidden {
			if h.refusals.spend(time.Since(h.start), 0) {
				log.Warnf("refused: %v", err)
			}
		} else if r.Method != http.MethodGet {
			log.Infof("failed: %v", err)
		}
		if p.refused != "" {
			w.Header().Set("Connection", "close")
		}
		status := kind.Status()
		if w.Header().Get("Allow") != "" {
			status = http.StatusMethodNotAllowed
		}
		answer(w, status, bodyOf(err))
	default:
		if r.Method != http.MethodGet {
			log.Info("done")
		}
		switch b := body.(type) {
		case answered:
		case nil:
			http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTimeout))
			w.WriteHeader(http.StatusNoContent)
		case created:
			answer(w, http.StatusCreated, b.body)
		default:
			answer(w, http.StatusOK, b)
		}
	}
}

// Bounds on the requests in a second: on the loopback interface, from all users together, and on the socket, from all
// users but root. A user who asks in a loop would cost the guests' requests a processor. A probe waits for those of all
// other connections at most, and so no longer than longestWait.
const (
	probeRate = loopbackConns
	otherRate = 100
)

// pace delays a request to a rate.
func (h *handler) pace(b *bucket, r *http.Request) {
	select {
	case <-time.After(b.wait(time.Since(h.start))):
	case <-r.Context().Done():
	case <-h.stop:
	}
}

// do finds the route, checks the peer's access and calls the handler.
func (h *handler) do(table []route, w http.ResponseWriter, r *http.Request, p peer) (any, error) {
	if p.refused != "" {
		return nil, fault.New(fault.Forbidden, "%s", p.refused)
	}
	route, name, allowed, err := match(table, r.Method, r.URL.EscapedPath())
	if err != nil {
		if allowed != nil {
			w.Header().Set("Allow", strings.Join(allowed, ", "))
		}
		return nil, err
	}
	if err := p.may(route.access); err != nil {
		return nil, fault.With(fault.Forbidden, err)
	}
	q := &request{w: w, r: r, name: name, pid: p.pid, uid: p.uid}
	if err := q.check(route); err != nil {
		return nil, err
	}
	return route.handle(h, q)
}
