package proxy

import (
	"errors"
	"net"
	"sync"
	"time"
)

// greetTimeout is how long a caller may take to make a connection, TLS and HTTP/2's
// greeting included, before it is closed.
const greetTimeout = 10 * time.Second

// newcomers are the connections that may not have greeted yet. gRPC waits for those when
// it is stopped, but closes only the others. Connections are kept as they are, as gRPC
// does more for them than for what wraps them.
type newcomers struct {
	mu     sync.Mutex // guards the rest; nothing is closed under it
	conns  map[net.Conn]*time.Timer
	closed bool
}

// add remembers a connection for longer than gRPC lets it greet, and reports false if
// all are to be closed.
func (n *newcomers) add(conn net.Conn) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return false
	}
	if n.conns == nil {
		n.conns = map[net.Conn]*time.Timer{}
	}
	n.conns[conn] = time.AfterFunc(2*greetTimeout, func() { n.forget(conn) })
	return true
}

func (n *newcomers) forget(conn net.Conn) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.conns, conn)
}

// close closes all of them, and each that is still to come.
func (n *newcomers) close() {
	n.mu.Lock()
	conns := n.conns
	n.conns, n.closed = nil, true
	n.mu.Unlock()
	for conn, forget := range conns {
		forget.Stop()
		conn.Close()
	}
}

// listener tells newcomers of what it accepts.
type listener struct {
	net.Listener
	*newcomers
}

func (l listener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil && !l.add(conn) {
		return nil, errors.Join(net.ErrClosed, conn.Close())
	}
	return conn, err
}
