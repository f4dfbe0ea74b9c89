package leasing_test

import (
	"context"
	"sync/atomic"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"github.com/etcd-leasing/leasing/internal/memetcd"
)

// only intercepts one method.
func only(m memetcd.Method, f memetcd.Interceptor) memetcd.Interceptor {
	return func(ctx context.Context, call *memetcd.Call, do func(context.Context) (proto.Message, error)) (proto.Message, error) {
		if call.Method != m {
			return do(ctx)
		}
		return f(ctx, call, do)
	}
}

// keepAlives intercepts renewals alone.
func keepAlives(f memetcd.Interceptor) memetcd.Interceptor {
	return only(memetcd.MethodLeaseKeepAlive, f)
}

// writesOf reports whether a request may put or delete key itself.
func writesOf(key string) func(*memetcd.Call) bool {
	var writes func(r *pb.TxnRequest) bool
	writes = func(r *pb.TxnRequest) bool {
		for _, op := range append(append([]*pb.RequestOp(nil), r.Success...), r.Failure...) {
			if string(op.GetRequestPut().GetKey()) == key || string(op.GetRequestDeleteRange().GetKey()) == key ||
				op.GetRequestTxn() != nil && writes(op.GetRequestTxn()) {
				return true
			}
		}
		return false
	}
	return func(call *memetcd.Call) bool {
		r, ok := call.Request.(*pb.TxnRequest)
		return ok && writes(r)
	}
}

// fate is what becomes of one request of a connection.
type fate struct {
	release chan struct{} // closed: what was held goes on
	sent    atomic.Int32  // how many such requests there were
}

const (
	requestLost = "request lost"
	replyLost   = "reply lost"
	requestHeld = "request held" // until release, whether or not the caller still waits
	replyHeld   = "reply held"
)

// meet lets the first request that is meant come to harm.
func (p *peer) meet(harm string, meant func(*memetcd.Call) bool) *fate {
	f := &fate{release: make(chan struct{})}
	p.conn.Intercept(func(ctx context.Context, call *memetcd.Call, do func(context.Context) (proto.Message, error)) (proto.Message, error) {
		if !meant(call) || f.sent.Add(1) > 1 {
			return do(ctx)
		}
		switch harm {
		case requestLost:
			return nil, memetcd.ErrLost
		case requestHeld:
			<-f.release
			return do(context.WithoutCancel(ctx))
		}
		r, err := do(ctx)
		if err != nil {
			p.t.Errorf("the test is wrong: %v", err)
		}
		if harm == replyLost {
			return nil, memetcd.ErrLost
		}
		<-f.release
		return r, nil
	})
	return f
}

// puts counts how often key got a new value.
func (c *cluster) puts(key string) func() int {
	var n atomic.Int32
	c.srv.OnApply(func(_ context.Context, _ int64, events []*mvccpb.Event) {
		for _, ev := range events {
			if string(ev.Kv.Key) == key {
				n.Add(1)
			}
		}
	})
	return func() int { return int(n.Load()) }
}

func second[T any](_ T, err error) error { return err }
