package etcdtest

import (
	"context"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
)

// Counter counts the requests that clients send to etcd, by the name of the
// method alone: "Range", "Txn", "LeaseGrant". A request that clientv3 sends
// again counts again, and so does each message that goes up a stream, such as
// "LeaseKeepAlive" and "Watch". The zero Counter is ready to use, by more than
// one client if need be.
type Counter struct {
	mu   sync.Mutex
	n    map[string]int
	last map[string]time.Time
}

// Option makes a client count its requests.
func (c *Counter) Option() ClientOption {
	unary := func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		c.add(method)
		return invoke(ctx, method, req, reply, cc, opts...)
	}
	stream := func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		s, err := open(ctx, desc, cc, method, opts...)
		if err != nil {
			return nil, err
		}
		return &countedStream{s, c, method}, nil
	}
	return func(cfg *clientv3.Config) {
		cfg.DialOptions = append(cfg.DialOptions,
			grpc.WithChainUnaryInterceptor(unary), grpc.WithChainStreamInterceptor(stream))
	}
}

type countedStream struct {
	grpc.ClientStream
	c      *Counter
	method string
}

func (s *countedStream) SendMsg(m any) error {
	s.c.add(s.method)
	return s.ClientStream.SendMsg(m)
}

func (c *Counter) add(method string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = make(map[string]int)
	}
	if c.last == nil {
		c.last = make(map[string]time.Time)
	}
	c.n[path.Base(method)]++
	c.last[path.Base(method)] = time.Now()
}

// Of returns how many requests of the methods have been sent.
func (c *Counter) Of(methods ...string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	var sum int
	for _, m := range methods {
		sum += c.n[m]
	}
	return sum
}

// KV returns how many requests a clientv3.KV has sent: reads, writes and
// transactions.
func (c *Counter) KV() int { return c.Of("Range", "Put", "DeleteRange", "Txn", "Compact") }

// Last returns when the latest request of the methods was about to be sent,
// or the zero time.
func (c *Counter) Last(methods ...string) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	var last time.Time
	for _, m := range methods {
		if t := c.last[m]; t.After(last) {
			last = t
		}
	}
	return last
}

// Reset starts the counts again at zero. Last is not affected.
func (c *Counter) Reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n = nil
}

// String returns all counts, such as "Range=2 Txn=1".
func (c *Counter) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []string
	for _, m := range slices.Sorted(maps.Keys(c.n)) {
		all = append(all, fmt.Sprintf("%s=%d", m, c.n[m]))
	}
	return strings.Join(all, " ")
}
