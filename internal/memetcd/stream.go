package memetcd

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
)

// stream is the client's end of a stream in both directions. What the client sends is taken to the
// server by one goroutine, the pump, in order; what the server sends waits in a queue until it is due
// and the client asks for it.
type stream struct {
	conn   *Conn
	flight *flight
	method Method
	out    *queue // to the server
	in     *queue // to the client
}

// item is one message in a queue. An error is the last one.
type item struct {
	msg proto.Message
	err error
	due time.Time
}

// queue is an unbounded queue with one reader.
type queue struct {
	wake chan struct{} // has room for one: there may be something new

	mu    sync.Mutex
	items []item
}

func newQueue() *queue { return &queue{wake: make(chan struct{}, 1)} }

// push adds an item, which is due no earlier than those before it.
func (q *queue) push(it item) {
	q.mu.Lock()
	if n := len(q.items); n > 0 && it.due.Before(q.items[n-1].due) {
		it.due = q.items[n-1].due
	}
	q.items = append(q.items, it)
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// first waits for an item and returns it without removing it.
func (q *queue) first(ctx context.Context) (item, error) {
	for {
		if err := endOf(ctx); err != nil {
			return item{}, err
		}
		q.mu.Lock()
		if len(q.items) > 0 {
			defer q.mu.Unlock()
			return q.items[0], nil
		}
		q.mu.Unlock()
		select {
		case <-q.wake:
		case <-ctx.Done():
		}
	}
}

func (q *queue) pop() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.items = q.items[1:]
}

// open makes a stream; run brings it to life.
func (c *Conn) open(ctx context.Context, m Method) (*stream, error) {
	if err := endOf(ctx); err != nil {
		return nil, err
	}
	f, err := c.takeOff(ctx)
	if err != nil {
		return nil, err
	}
	st := &stream{conn: c, flight: f, method: m, out: newQueue(), in: newQueue()}
	if requiresLeader(ctx) {
		if !c.srv.hasLeader() {
			st.finish(rpctypes.ErrGRPCNoLeader)
		}
		c.mu.Lock()
		f.leaderless = func() { st.finish(rpctypes.ErrGRPCNoLeader) }
		c.mu.Unlock()
	}
	return st, nil
}

// finish is the server's last word; err is io.EOF for a good end.
func (st *stream) finish(err error) { st.in.push(item{err: err, due: st.conn.due()}) }

// run starts the pump, which gives what the client sends to handle, until the stream ends; then it
// calls done.
func (st *stream) run(handle func(ctx context.Context, req proto.Message) (proto.Message, error), done func()) {
	c := st.conn
	c.pumps.Go(func() {
		defer done()
		defer st.flight.land()
		ctx := st.flight.ctx
		for {
			it, err := st.out.first(ctx)
			if err != nil {
				return
			}
			st.out.pop()
			if it.err != nil {
				st.finish(it.err)
				continue
			}
			st.deliver(ctx, it, handle)
		}
	})
}

// deliver takes one message to the server and queues the reply.
func (st *stream) deliver(ctx context.Context, it item, handle func(context.Context, proto.Message) (proto.Message, error)) {
	c := st.conn
	c.mu.Lock()
	intercept := c.intercept
	c.mu.Unlock()
	call := &Call{Method: st.method, Request: it.msg}
	do := func(ctx context.Context) (proto.Message, error) {
		if err := c.pass(ctx, Requests, it.due); err != nil {
			return nil, err
		}
		msg, err := handle(ctx, overWire(call.Request))
		return overWire(msg), err
	}
	var msg proto.Message
	var err error
	if intercept != nil {
		msg, err = intercept(ctx, call, do)
	} else {
		msg, err = do(ctx)
	}
	switch {
	case errors.Is(err, ErrLost):
	case err != nil:
		_, err = outcome{err: err}.checked()
		st.finish(err)
	case msg != nil:
		st.in.push(item{msg: msg, due: c.due()})
	}
}

func (st *stream) send(msg proto.Message) error {
	if endOf(st.flight.ctx) != nil {
		return io.EOF // as gRPC does: the reason comes from Recv
	}
	_, due := st.conn.depart(st.method)
	st.out.push(item{msg: overWire(msg), due: due})
	return nil
}

func (st *stream) recv() (proto.Message, error) {
	ctx := st.flight.ctx
	it, err := st.in.first(ctx)
	if err != nil {
		return nil, err
	}
	if err := st.conn.pass(ctx, Replies, it.due); err != nil {
		return nil, err
	}
	st.in.pop()
	if it.err != nil {
		st.flight.cancel(broken{it.err})
	}
	return it.msg, it.err
}

// typedStream gives a stream the types of its messages, and the rest of gRPC's interface.
type typedStream[Req, Resp any] struct{ *stream }

var (
	_ grpc.BidiStreamingClient[pb.WatchRequest, pb.WatchResponse]                   = typedStream[pb.WatchRequest, pb.WatchResponse]{}
	_ grpc.BidiStreamingClient[pb.LeaseKeepAliveRequest, pb.LeaseKeepAliveResponse] = typedStream[pb.LeaseKeepAliveRequest, pb.LeaseKeepAliveResponse]{}
)

func (s typedStream[Req, Resp]) Send(req *Req) error { return s.send(any(req).(proto.Message)) }

func (s typedStream[Req, Resp]) Recv() (*Resp, error) {
	msg, err := s.recv()
	if err != nil {
		return nil, err
	}
	return any(msg).(*Resp), nil
}

func (s typedStream[Req, Resp]) Context() context.Context     { return s.flight.ctx }
func (s typedStream[Req, Resp]) Header() (metadata.MD, error) { return nil, nil }
func (s typedStream[Req, Resp]) Trailer() metadata.MD         { return nil }
func (s typedStream[Req, Resp]) SendMsg(any) error            { panic("memetcd: use Send") }
func (s typedStream[Req, Resp]) RecvMsg(any) error            { panic("memetcd: use Recv") }

// CloseSend tells the server that nothing more comes. It ends a keep-alive stream once all is answered;
// a watch goes on.
func (s typedStream[Req, Resp]) CloseSend() error {
	if s.method == MethodLeaseKeepAlive {
		s.out.push(item{err: io.EOF})
	}
	return nil
}
