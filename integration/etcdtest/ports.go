package etcdtest

import (
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
)

// A member keeps its ports while it is stopped, so they must not be from the
// range that systems take the ports of outgoing connections from.
const firstPort, endPort = 16000, 32000

var handedOut struct {
	sync.Mutex
	ports map[int]bool
}

// freePort returns a TCP port on loopback that nobody listens on. It is
// returned once in a process.
func freePort() (int, error) {
	handedOut.Lock()
	defer handedOut.Unlock()
	if handedOut.ports == nil {
		handedOut.ports = make(map[int]bool)
	}
	for range 1000 {
		port := firstPort + rand.IntN(endPort-firstPort)
		if handedOut.ports[port] {
			continue
		}
		l, err := net.Listen("tcp", loopback(port))
		if err != nil {
			continue
		}
		_ = l.Close()
		handedOut.ports[port] = true
		return port, nil
	}
	return 0, fmt.Errorf("etcdtest: no free port from %d to %d", firstPort, endPort-1)
}

func loopback(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }
