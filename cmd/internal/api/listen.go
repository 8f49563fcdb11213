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

// The bound on connections, 256 in all on the socket. Root has its part to itself, so that nobody can shut it out; those that are only
// to hear that they may not have a small one. What is over is closed at once, unless a connection without a request makes room.
const (
	rootConns     = 112
	otherConns    = 128
	refusedConns  = 16
	loopbackConns = 32
)

// silentGrace is how long a connection may take to its first request before it makes room for another.
const silentGrace = time.Second

// refusalPause is how long the loopback listener, to which everybody may connect, rests after each connection that has no place.
const refusalPause = time.Millisecond

// ListenLoopback listens on an address for probes. The error says what is allowed: the address must be of the loopback
// interface, since nobody is asked there who he is.
func ListenLoopback(address string) (net.Listener, error) {
	host, port, err := net.SplitHostPort(address)
	if host == "localhost" {
		host = "127.0.0.1" // not what a name server or a file says
	}
	ip, ipErr := netip.ParseAddr(host)
	if err != nil || ipErr != nil || !ip.Unmap().IsLoopback() {
		return nil, fmt.Errorf("cannot listen at %q: give an address of the loopback interface with a port, as in 127.0.0.1:9750 or [::1]:9750", address)
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

// take gives a connection a place. When there is none, the connection that has been without a request for the longest time is closed:
// its client loses nothing, and connects again for its next request.
func (p *pool) take(c *conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.conns) >= p.room {
		idle := p.longestIdle(time.Now())
		if idle == nil {
			return false
		}
		delete(p.conns, idle)
		idle.Conn.Close() // its server then closes it as it would if the client had
	}
	c.pool = p
	p.conns[c] = struct{}{}
	return true
}

// longestIdle is the connection to close; nil for none. The caller holds mu.
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

// conn is a connection with its peer, which gives its place back when it is closed.
type conn struct {
	net.Conn
	peer  peer         // immutable
	pool  *pool        // immutable once it has a place
	idle  atomic.Int64 // since when it is without a request, in ns since 1970; 0 while there is one
	asked atomic.Bool  // it has had one
}

func newConn(c net.Conn, p peer) *conn {
	made := &conn{Conn: c, peer: p}
	made.idle.Store(time.Now().UnixNano())
	return made
}

// note is told what net/http makes of the connection.
func (c *conn) note(state http.ConnState) {
	switch state {
	case http.StateActive:
		c.asked.Store(true)
		c.idle.Store(0)
	case http.StateIdle:
		c.idle.Store(time.Now().UnixNano())
	}
}

// Close closes the connection and gives its place back.
func (c *conn) Close() error {
	c.pool.give(c)
	return c.Conn.Close()
}

// peerOf is the peer of a connection of ours. One that is not is refused.
func peerOf(c net.Conn) peer {
	if c, ok := c.(*conn); ok {
		return c.peer
	}
	return peer{refused: "cannot tell who you are"}
}

// peerListener settles who is at the other end of each connection.
type peerListener struct {
	*net.UnixListener
	peers                *peers
	root, other, refused *pool
}

func newPeerListener(l *net.UnixListener, peers *peers) *peerListener {
	return &peerListener{UnixListener: l, peers: peers, root: newPool(rootConns), other: newPool(otherConns), refused: newPool(refusedConns)}
}

// Accept gives the next connection that has a place. Who would have to wait for one is not waited for.
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
		if made := newConn(c, p); place.take(made) {
			return made, nil
		}
		c.Close()
	}
}

// loopbackListener knows nobody.
type loopbackListener struct {
	net.Listener
	pool *pool
}

// Accept gives the next connection that has a place.
func (l *loopbackListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if made := newConn(c, peer{loopback: true}); l.pool.take(made) {
			return made, nil
		}
		c.Close()
		time.Sleep(refusalPause)
	}
}
