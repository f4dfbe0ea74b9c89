package memetcd

import (
	"context"
	"errors"
	"maps"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// maxSendBytes is the largest message that clientv3 sends.
const maxSendBytes = 2 << 20

var (
	errReset        = status.Error(codes.Unavailable, "memetcd: connection reset")
	errClientClosed = status.Error(codes.Canceled, "grpc: the client connection is closing")
)

// ErrLost is what an interceptor returns for a call that is never answered: a unary call then waits
// until its context ends, a stream goes on without this message.
var ErrLost = errors.New("memetcd: message lost")

// Direction is one way of a connection, or both.
type Direction uint8

const (
	Requests Direction = 1 << iota // from the client to the server
	Replies                        // from the server to the client, watch events too

	Both = Requests | Replies
)

// Call is one request of a client, on its way to the server.
type Call struct {
	Method  Method
	Request proto.Message // the interceptor's own; do sends it as it then is
}

// Interceptor stands between a client and the server. do sends the request over the connection and
// waits for the reply; how often it is called, when, and what becomes of its result is up to the
// interceptor. It sees unary calls, every keep-alive (not the stream), and the messages that a client
// sends on a watch stream, where do returns no reply. On a stream it gets them one after the other, and
// an error ends the stream.
//
// The context ends when the caller gives up, or the connection breaks, and a request that has not
// reached the server by then never will: do(context.WithoutCancel(ctx)) goes on. A caller does not wait
// for the interceptor once its context has ended. To lose a call, return [ErrLost], before do or after.
type Interceptor = func(ctx context.Context, call *Call, do func(context.Context) (proto.Message, error)) (proto.Message, error)

// Conn is the connection of one client, and the place to break it. Its methods may be called from any
// goroutine and take effect at once.
type Conn struct {
	srv    *Server
	name   string
	client *clientv3.Client
	pumps  sync.WaitGroup // the goroutines of streams

	// mu is the innermost lock: nothing is called under it.
	mu         sync.Mutex
	closed     error
	cut        Direction
	changed    chan struct{} // closed, and replaced, when cut changes
	flights    map[*flight]struct{}
	intercept  Interceptor
	deny       rights
	latency    time.Duration
	watchDelay time.Duration
	sent       map[Method]int
}

func newConn(s *Server, name string) *Conn {
	c := &Conn{
		srv:     s,
		name:    name,
		changed: make(chan struct{}),
		flights: make(map[*flight]struct{}),
		latency: s.opts.Latency,
		sent:    make(map[Method]int),
	}
	cli := clientv3.NewCtxClient(context.Background(), clientv3.WithZapLogger(s.opts.Logger))
	r := &remote{c}
	cli.KV = clientv3.NewKVFromKVClient(r, cli)
	cli.Lease = clientv3.NewLeaseFromLeaseClient(r, cli, time.Second) // as of a client without DialTimeout
	cli.Watcher = clientv3.NewWatchFromWatchClient(r, cli)
	c.client = cli
	context.AfterFunc(cli.Ctx(), func() { c.shut(errClientClosed) })
	return c
}

// Name is the name of the client.
func (c *Conn) Name() string { return c.name }

// KVClient sends requests as they are, below the layers of clientv3.
func (c *Conn) KVClient() pb.KVClient { return &remote{c} }

// LeaseClient is to leases what KVClient is to keys.
func (c *Conn) LeaseClient() pb.LeaseClient { return &remote{c} }

// WatchClient is to watches what KVClient is to keys.
func (c *Conn) WatchClient() pb.WatchClient { return &remote{c} }

// Intercept puts f between the client and the server from the next request on; nil removes it.
func (c *Conn) Intercept(f Interceptor) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.intercept = f
}

// Cut makes the connection swallow what goes in the given direction, in addition to what was cut
// before. Nobody gets an error: requests hang until their context ends, and with Replies alone they are
// applied all the same. What still waits is delivered after Heal.
func (c *Conn) Cut(d Direction) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.setCutLocked(c.cut | d)
}

// Heal undoes Cut in both directions.
func (c *Conn) Heal() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.setCutLocked(0)
}

func (c *Conn) setCutLocked(d Direction) {
	c.cut = d
	close(c.changed)
	c.changed = make(chan struct{})
}

// Reset breaks the connection: requests under way fail as unavailable, whether or not the server has
// applied them, and streams end. A new connection is there at once, as cut as the old one.
func (c *Conn) Reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.breakLocked(errReset)
}

func (c *Conn) breakLocked(err error) {
	for f := range c.flights {
		f.cancel(broken{err})
	}
	clear(c.flights)
}

// shut ends the connection for good.
func (c *Conn) shut(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed == nil {
		c.closed = err
	}
	c.breakLocked(c.closed)
}

// SetLatency sets how long a message takes in either direction from now on.
func (c *Conn) SetLatency(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.latency = d
}

// DelayWatch makes everything that the server sends on watch streams from now on late by d. Messages
// never overtake each other.
func (c *Conn) DelayWatch(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.watchDelay = d
}

// Deny takes rights from the client. deny is asked, as etcd's auth is, whether it may read or write
// what a request names: comparisons, ranges, previous values and watches read, puts and deletions write.
// end is the range_end of the request ("\x00" is open). A client with a restriction may not compact
// either. nil gives all rights back. deny must not block, nor call the server.
func (c *Conn) Deny(deny func(key, end []byte, write bool) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deny = deny
}

// Sent counts what the client has sent, by method, whether or not it arrived.
func (c *Conn) Sent() map[Method]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.sent)
}

func (c *Conn) rights() rights {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.deny
}

// depart counts a message and says what it will meet on its way.
func (c *Conn) depart(m Method) (Interceptor, time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sent[m]++
	return c.intercept, time.Now().Add(c.latency)
}

// flight is one RPC that is under way, unary or stream.
type flight struct {
	conn   *Conn
	ctx    context.Context // ends with the caller's, with the connection, or when it is over
	cancel context.CancelCauseFunc

	leaderless func() // ends a stream that requires a leader; nil for others; guarded by conn.mu
}

// broken is the cause of a context that ended with its connection.
type broken struct{ error }

func (c *Conn) takeOff(ctx context.Context) (*flight, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed != nil {
		return nil, c.closed
	}
	f := &flight{conn: c}
	f.ctx, f.cancel = context.WithCancelCause(ctx)
	c.flights[f] = struct{}{}
	return f, nil
}

func (f *flight) land() {
	f.cancel(nil)
	f.conn.mu.Lock()
	defer f.conn.mu.Unlock()
	delete(f.conn.flights, f)
}

// endLeaderless ends the streams that require a leader.
func (c *Conn) endLeaderless() {
	var ends []func()
	c.mu.Lock()
	for f := range c.flights {
		if f.leaderless != nil {
			ends = append(ends, f.leaderless)
		}
	}
	c.mu.Unlock()
	for _, end := range ends {
		end()
	}
}

// endOf is the gRPC error for a context that has ended; nil if it has not.
func endOf(ctx context.Context) error {
	if ctx.Err() == nil {
		return nil
	}
	if b, ok := context.Cause(ctx).(broken); ok {
		return b.error
	}
	return status.FromContextError(ctx.Err()).Err()
}

// pass waits until a message that is due at the given time has gone one way.
func (c *Conn) pass(ctx context.Context, d Direction, due time.Time) error {
	if wait := time.Until(due); wait > 0 {
		t := time.NewTimer(wait)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
		case <-c.srv.done:
		}
	}
	for {
		if err := endOf(ctx); err != nil {
			return err
		}
		c.mu.Lock()
		open, changed := c.cut&d == 0, c.changed
		c.mu.Unlock()
		if open {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
		case <-c.srv.done:
			return errServerClosed
		}
	}
}

// due is when a message that leaves now arrives.
func (c *Conn) due() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.latency)
}

// call makes a unary call.
func (c *Conn) call(ctx context.Context, m Method, req proto.Message) (proto.Message, error) {
	if err := endOf(ctx); err != nil {
		return nil, err
	}
	f, err := c.takeOff(ctx)
	if err != nil {
		return nil, err
	}
	defer f.land()
	if n := proto.Size(req); n > maxSendBytes {
		return nil, status.Errorf(codes.ResourceExhausted, "trying to send message larger than max (%d vs. %d)", n, maxSendBytes)
	}
	call := &Call{Method: m, Request: overWire(req)}
	intercept, due := c.depart(m)
	do := func(ctx context.Context) (proto.Message, error) { return c.roundTrip(ctx, call, due) }
	if intercept == nil {
		return do(f.ctx)
	}
	result := make(chan outcome, 1)
	go func() {
		msg, err := intercept(f.ctx, call, do)
		result <- outcome{msg, err}
	}()
	select {
	case o := <-result:
		if errors.Is(o.err, ErrLost) {
			<-f.ctx.Done()
			return nil, endOf(f.ctx)
		}
		return o.checked()
	case <-f.ctx.Done():
		return nil, endOf(f.ctx)
	}
}

// roundTrip takes a request to the server and the reply back.
func (c *Conn) roundTrip(ctx context.Context, call *Call, due time.Time) (proto.Message, error) {
	if err := c.pass(ctx, Requests, due); err != nil {
		return nil, err
	}
	msg, err := c.srv.serve(ctx, c, call.Method, overWire(call.Request))
	msg = overWire(msg)
	if lost := c.pass(ctx, Replies, c.due()); lost != nil {
		return nil, lost
	}
	return msg, err
}

// checked makes a gRPC error of whatever error an interceptor came up with.
func (o outcome) checked() (proto.Message, error) {
	if o.err == nil && o.msg == nil {
		panic("memetcd: an interceptor returned neither a reply nor an error; to lose a call, return ErrLost")
	}
	if o.err == nil {
		return o.msg, nil
	}
	if _, ok := status.FromError(o.err); ok {
		return nil, o.err
	}
	return nil, status.FromContextError(o.err).Err()
}

// overWire is what arrives of a message at the other end: the same content in other memory, and empty
// fields as the encoding leaves them.
func overWire(msg proto.Message) proto.Message {
	if msg == nil {
		return nil
	}
	data, err := proto.Marshal(msg)
	if err != nil {
		panic("memetcd: cannot encode a message: " + err.Error())
	}
	out := msg.ProtoReflect().New().Interface()
	if err := proto.Unmarshal(data, out); err != nil {
		panic("memetcd: cannot decode a message: " + err.Error())
	}
	return out
}

// watchDue is when a message on a watch stream that leaves now arrives.
func (c *Conn) watchDue() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.latency + c.watchDelay)
}
