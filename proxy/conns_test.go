package proxy

import (
	"net"
	"testing"
	"testing/synctest"
	"time"
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
