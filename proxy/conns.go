package proxy

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"google.golang.org/grpc/credentials"
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

// loggedTLS logs why TLS with a client has failed, which gRPC keeps to itself. Who hangs up
// without a word, as probes do, is left out.
type loggedTLS struct {
	credentials.TransportCredentials
	log *zap.Logger
}

func (c loggedTLS) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := c.TransportCredentials.ServerHandshake(raw)
	if err != nil && !errors.Is(err, io.EOF) {
		c.log.Warn("no TLS with a client", zap.Stringer("client", raw.RemoteAddr()), zap.Error(err))
	}
	return conn, info, err
}

func (c loggedTLS) Clone() credentials.TransportCredentials {
	return loggedTLS{c.TransportCredentials.Clone(), c.log}
}

// onceIn returns a logger that says the same only once in a while.
func onceIn(while time.Duration, log *zap.Logger) *zap.Logger {
	return log.WithOptions(zap.WrapCore(func(core zapcore.Core) zapcore.Core {
		return zapcore.NewSamplerWithOptions(core, while, 1, 0)
	}))
}
