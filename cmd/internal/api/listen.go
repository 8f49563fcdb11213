package api

import (
	"fmt"
	"math"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Bounds on connections, 256 in all on the socket. Root has its own share, so that no other user can shut it out.
// Refused peers share a small one, enough to hear the refusal. A connection beyond the bound is closed at once, unless
// an idle connection makes room.
const (
	rootConns     = 112
	otherConns    = 128
	refusedConns  = 16
	loopbackConns = 32
)

// silentGrace protects a new connection without a request from making room for another.
const silentGrace = time.Second

// refusalPause is the loopback listener's pause after each refused connection: any user of the host may connect there.
const refusalPause = time.Millisecond

// ListenLoopback listens on an address for probes. The error names the allowed addresses: it must be on the loopback
// interface, because probes need no identity.
func ListenLoopback(address string) (net.Listener, error) {
	host, port, err := net.SplitHostPort(address)
	if host == "localhost" {
		// Independent of a name server or /etc/hosts.
		host = "127.0.0.1"
	}
	ip, ipErr := netip.ParseAddr(host)
	if err != nil || ipErr != nil || !ip.Unmap().IsLoopback() {
		return nil, fmt.Errorf(
			"cannot listen at %q: give an address of the loopback interface with a port, as in 127.0.0.1:9750 or [::1]:9750",
			address)
	}
	l, err := net.Listen("tcp", net.JoinHostPort(host, port))
	if err != nil {
		return nil, fmt.Errorf("cannot listen at %s: %w", address, err)
	}
	return l, nil
}

// pool bounds connections.
type pool struct {
	room int // immutable

	mu    sync.Mutex
	conns map[*conn]struct{} // guarded by mu
}

func newPool(n int) *pool { return &pool{room: n, conns: map[*conn]struct{}{}} }

// admit gives a connection a slot. Without a free one it closes the connection that has been idle for the longest time.
// That client loses nothing, and connects again for its next request.
func (p *pool) admit(c *conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.conns) >= p.room {
		idle := p.longestIdle(time.Now())
		if idle == nil {
			return false
		}
		delete(p.conns, idle)
		// Its server then closes it as after a disconnect of the client.
		idle.Conn.Close()
	}
	c.pool = p
	p.conns[c] = struct{}{}
	return true
}

// longestIdle returns the connection to close, nil for none. Called with mu held.
func (p *pool) longestIdle(now time.Time) (longest *conn) {
	first := int64(math.MaxInt64)
	for c := range p.conns {
		since := c.idle.Load()
		if since == 0 || since >= first || !c.asked.Load() && now.UnixNano()-since < int64(silentGrace) {
			continue
		}
		longest, first = c, since
	}
	return longest
}

func (p *pool) give(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}

// conn is a connection with its peer. Closing it gives its slot back.
type conn struct {
	net.Conn
	peer  peer         // immutable
	pool  *pool        // immutable once it has a slot
	idle  atomic.Int64 // begin of the time without a request, in ns since 1970; 0 during one
	asked atomic.Bool  // it has had a request
}

func newConn(c net.Conn, p peer) *conn {
	made := &conn{Conn: c, peer: p}
	made.idle.Store(time.Now().UnixNano())
	return made
}

// note follows the connection's state in net/http.
func (c *conn) note(state http.ConnState) {
	switch state {
	case http.StateActive:
		c.asked.Store(true)
		c.idle.Store(0)
	case http.StateIdle:
		c.idle.Store(time.Now().UnixNano())
	}
}

// Close closes the connection and gives its slot back. The error is the connection's.
func (c *conn) Close() error {
	c.pool.give(c)
	return c.Conn.Close()
}

// peerOf returns the peer of one of our connections. It refuses any other.
func peerOf(c net.Conn) peer {
	if c, ok := c.(*conn); ok {
		return c.peer
	}
	return peer{refused: "cannot tell who you are"}
}

// peerListener determines the peer of each connection.
type peerListener struct {
	*net.UnixListener
	peers                *peers
	root, other, refused *pool
}

func newPeerListener(l *net.UnixListener, peers *peers) *peerListener {
	return &peerListener{UnixListener: l, peers: peers, root: newPool(rootConns), other: newPool(otherConns),
		refused: newPool(refusedConns)}
}

// Accept returns the next connection with a slot. It closes the others at once. The error is the listener's.
func (l *peerListener) Accept() (net.Conn, error) {
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		p, place := l.peers.of(c), l.other
		switch {
		case p.refused != "":
			place = l.refused
		case p.uid == 0:
			place = l.root
		}
		if made := newConn(c, p); place.admit(made) {
			return made, nil
		}
		c.Close()
	}
}

// loopbackListener identifies no peer.
type loopbackListener struct {
	net.Listener
	pool *pool
}

// Accept returns the next connection with a slot. The error is the listener's.
func (l *loopbackListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if made := newConn(c, peer{loopback: true}); l.pool.admit(made) {
			return made, nil
		}
		c.Close()
		time.Sleep(refusalPause)
	}
}
