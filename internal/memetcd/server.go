package memetcd

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// The identity of the only member, as replies show it. It is that of etcd's default configuration.
const (
	ClusterID uint64 = 0xcdf818194e3a8c32
	MemberID  uint64 = 0x8e9e05c52164694d
)

// errServerClosed is what every request gets after Close.
var errServerClosed = status.Error(codes.Unavailable, "memetcd: server closed")

// Options are the settings of a server. The zero value is etcd's default configuration, but for MinTTL.
type Options struct {
	// MaxTxnOps is how many operations a list of a transaction may have; 0 is 128.
	MaxTxnOps int
	// MaxRequestBytes bounds the size of a write; 0 is 1.5 MiB.
	MaxRequestBytes int
	// MinTTL is the shortest lease that is granted, in seconds; 0 is 1. (A real server takes one and a
	// half election timeouts, rounded up: 2 by default.)
	MinTTL int64
	// ClockRate is how fast the server's clock runs compared with the clients'; 0 is 1. At 1.04, leases
	// end 4 % early.
	ClockRate float64
	// Latency is how long a message takes from client to server, and from server to client.
	Latency time.Duration
	// RequestTimeout is how long a request waits for a leader before it fails; 0 is 7 s.
	RequestTimeout time.Duration
	// ElectionTimeout: streams that require a leader end after three of these without one; 0 is 1 s.
	ElectionTimeout time.Duration
	// ProgressInterval is the pause between progress notifications of idle watches; 0 is 10 min.
	ProgressInterval time.Duration
	// Retry lets clients repeat ranges and the unary lease requests that failed as unavailable, up to a
	// hundred times and 25 ms apart, as the interceptor of a real clientv3.Client does. Without it a
	// test sees each failure, and counts each request, by itself.
	Retry bool
	// Logger is handed to the clients; nil logs nothing.
	Logger *zap.Logger
}

func (o Options) withDefaults() Options {
	orInt := func(v *int, def int) {
		if *v == 0 {
			*v = def
		}
	}
	orTime := func(v *time.Duration, def time.Duration) {
		if *v == 0 {
			*v = def
		}
	}
	orInt(&o.MaxTxnOps, 128)
	orInt(&o.MaxRequestBytes, 3<<19)
	orTime(&o.RequestTimeout, 7*time.Second)
	orTime(&o.ElectionTimeout, time.Second)
	orTime(&o.ProgressInterval, 10*time.Minute)
	o.MinTTL = max(o.MinTTL, 1)
	if o.ClockRate == 0 {
		o.ClockRate = 1
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	return o
}

// Server is an etcd server in memory. Its methods may be called from any goroutine.
type Server struct {
	opts Options
	done chan struct{} // closed by Close

	// mu makes every request one step. Under it nothing waits, and no code of a client runs; the hooks
	// of a test do (OnApply, Deny), which is why they may not call back.
	mu       sync.Mutex
	closed   bool
	store    *store
	leases   *lessor
	term     uint64
	leader   bool
	noSpace  bool
	waiting  []*proposal // for a leader, in the order of arrival
	streams  []*watchStream
	conns    []*Conn
	leaseEnd *time.Timer // for the next lease to run out, at leaseDue
	leaseDue time.Time
	election *time.Timer // what is to happen while there is no leader
	hooks    []func(context.Context, int64, []*mvccpb.Event)
	stats    Stats
	txns     []*TxnRecord
	record   bool
}

// New starts a server. It has no goroutine of its own until something needs one; Close ends them all.
func New(opts Options) *Server {
	opts = opts.withDefaults()
	return &Server{
		opts:   opts,
		done:   make(chan struct{}),
		store:  newStore(),
		leases: newLessor(opts.MinTTL, opts.ClockRate),
		term:   2, // as a new cluster's after its first election
		leader: true,
		stats:  newStats(),
	}
}

// Close ends the server, its connections and its clients. It waits for their goroutines, save for
// interceptors that do not return when their context ends. It may be called more than once.
func (s *Server) Close() {
	s.mu.Lock()
	first := !s.closed
	s.closed = true
	conns := s.conns
	s.stopTimersLocked()
	s.mu.Unlock()
	if first {
		close(s.done)
	}
	for _, c := range conns {
		c.shut(errServerClosed)
	}
	for _, c := range conns {
		_ = c.client.Close() // it has nothing to say but that its context is over
		c.pumps.Wait()
	}
}

func (s *Server) stopTimersLocked() {
	for _, t := range []*time.Timer{s.leaseEnd, s.election} {
		if t != nil {
			t.Stop()
		}
	}
	for _, ws := range s.streams {
		ws.ticker.Stop()
	}
}

// Client makes a client with a connection of its own. The name is for records and errors. The client is
// closed with the server, or before.
func (s *Server) Client(name string) (*clientv3.Client, *Conn) {
	c := newConn(s, name)
	s.mu.Lock()
	s.conns = append(s.conns, c)
	closed := s.closed
	s.mu.Unlock()
	if closed {
		c.shut(errServerClosed)
	}
	return c.client, c
}

// NewClient is Client for a test that breaks nothing.
func (s *Server) NewClient(name string) *clientv3.Client {
	cli, _ := s.Client(name)
	return cli
}

// Revision is the current revision of the store.
func (s *Server) Revision() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.store.rev
}

// Compact drops the history below rev, as a compaction by some other client would.
func (s *Server) Compact(rev int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.store.compact(rev)
}

// SetNoSpace raises or clears the NOSPACE alarm: puts, leases and transactions with a put in any branch
// are refused, deletions work.
func (s *Server) SetNoSpace(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.noSpace = on
}

// commitLocked ends a write transaction and tells everybody who listens.
func (s *Server) commitLocked(ctx context.Context, w *writer) {
	w.commit()
	if len(w.events) == 0 {
		return
	}
	for _, ws := range s.streams {
		ws.notifyLocked(w.rev(), w.events)
	}
	for _, hook := range s.hooks {
		events := make([]*mvccpb.Event, len(w.events))
		for i, ev := range w.events {
			events[i] = proto.Clone(ev).(*mvccpb.Event)
		}
		hook(ctx, w.rev(), events)
	}
}

// received counts a request that arrived.
func (s *Server) received(m Method) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats.Received[m]++
}

func (s *Server) removeStream(ws *watchStream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ws.ticker.Stop()
	s.streams = slices.DeleteFunc(s.streams, func(o *watchStream) bool { return o == ws })
}

// unexpected is for a request that no client interface can send.
func unexpected(m Method, req proto.Message) error {
	panic(fmt.Sprintf("memetcd: %s with a %T", m, req))
}
