package api

import (
	"fmt"
	"net"
	"net/netip"
	"sync"
)

// The bound on connections, 256 in all on the socket. Root has its part to itself, so that nobody can shut it out; those that are only
// to hear that they may not have a small one. What is over is closed at once.
const (
	rootConns     = 112
	otherConns    = 128
	refusedConns  = 16
	loopbackConns = 32
)

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
type pool chan struct{}

func newPool(n int) pool { return make(pool, n) }

func (p pool) take() bool {
	select {
	case p <- struct{}{}:
		return true
	default:
		return false
	}
}

// conn is a connection with its peer, which gives its place back when it is closed.
type conn struct {
	net.Conn
	peer peer
	give func()
}

func newConn(c net.Conn, p peer, place pool) *conn {
	return &conn{c, p, sync.OnceFunc(func() { <-place })}
}

// Close closes the connection and gives its place back, once.
func (c *conn) Close() error {
	c.give()
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
	root, other, refused pool
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
		if place.take() {
			return newConn(c, p, place), nil
		}
		c.Close()
	}
}

// loopbackListener knows nobody.
type loopbackListener struct {
	net.Listener
	pool pool
}

// Accept gives the next connection that has a place.
func (l *loopbackListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if l.pool.take() {
			return newConn(c, peer{loopback: true}, l.pool), nil
		}
		c.Close()
	}
}
