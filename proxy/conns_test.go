package proxy

import (
	"crypto/tls"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc/credentials"
)

// closed reports whether a connection is.
func closed(conn net.Conn) bool { return conn.SetDeadline(time.Time{}) != nil }

// At the end those are closed that may not have greeted yet, and those that come later.
func TestNewcomers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n newcomers
		early, _ := net.Pipe()
		late, _ := net.Pipe()
		defer early.Close()
		n.add(early)
		time.Sleep(2 * greetTimeout)
		synctest.Wait()
		n.add(late)
		if len(n.conns) != 1 {
			t.Errorf("%d connections are remembered", len(n.conns))
		}
		n.close()
		if closed(early) || !closed(late) || n.add(early) {
			t.Errorf("the early is closed: %v, the late: %v, or one is taken after the end", closed(early), closed(late))
		}
	})
}

// Why TLS failed is logged, once in a while; who hangs up without a word is left out.
func TestFailedTLSIsLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zapcore.InfoLevel)
		c := loggedTLS{credentials.NewTLS(&tls.Config{}), onceIn(time.Minute, zap.New(core))}
		for _, tc := range []struct {
			says  string
			after time.Duration
			want  int
		}{
			{"", 0, 0}, {"GET / HTTP/1.1\r\n", 0, 1}, {"PRI * HTTP/2.0\r\n", 0, 1}, {"again", time.Minute, 2},
		} {
			time.Sleep(tc.after)
			server, client := net.Pipe()
			go func() {
				client.Write([]byte(tc.says))
				io.Copy(io.Discard, client) // until it is refused
			}()
			if tc.says == "" {
				client.Close()
			}
			if _, _, err := c.Clone().(loggedTLS).ServerHandshake(server); err == nil {
				t.Errorf("%q is TLS", tc.says)
			}
			server.Close()
			client.Close()
			if got := logs.FilterMessage("no TLS with a client").Len(); got != tc.want {
				t.Errorf("after %q: %d entries, want %d", tc.says, got, tc.want)
			}
		}
	})
}
