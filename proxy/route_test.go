package proxy

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// received counts the requests that are sent one way.
type received struct{ n int }

func (r *received) Range(context.Context, *pb.RangeRequest, ...grpc.CallOption) (*pb.RangeResponse, error) {
	r.n++
	return nil, nil
}

func (r *received) RangeStream(context.Context, *pb.RangeRequest, ...grpc.CallOption) (pb.KV_RangeStreamClient, error) {
	r.n++
	return nil, nil
}

func (r *received) Put(context.Context, *pb.PutRequest, ...grpc.CallOption) (*pb.PutResponse, error) {
	r.n++
	return nil, nil
}

func (r *received) DeleteRange(context.Context, *pb.DeleteRangeRequest, ...grpc.CallOption) (*pb.DeleteRangeResponse, error) {
	r.n++
	return nil, nil
}

func (r *received) Txn(context.Context, *pb.TxnRequest, ...grpc.CallOption) (*pb.TxnResponse, error) {
	r.n++
	return nil, nil
}

func (r *received) Compact(context.Context, *pb.CompactionRequest, ...grpc.CallOption) (*pb.CompactionResponse, error) {
	r.n++
	return nil, nil
}

// handling is a context such as gRPC gives to who handles a caller's request.
func handling(ctx context.Context, pairs ...string) context.Context {
	return grpc.NewContextWithServerTransportStream(metadata.NewIncomingContext(ctx, metadata.Pairs(pairs...)), unusedStream{})
}

type unusedStream struct{ grpc.ServerTransportStream }

// Every method goes the session's way for the session, which bears its mark, and the
// caller's for anything else, which is noted: for a caller, and for who has lost track of
// whom it is for.
func TestRouter(t *testing.T) {
	own, pass := new(received), new(received)
	r := router{own, pass}
	methods := []func(context.Context){
		func(ctx context.Context) { r.Range(ctx, nil) },
		func(ctx context.Context) { r.RangeStream(ctx, nil) },
		func(ctx context.Context) { r.Put(ctx, nil) },
		func(ctx context.Context) { r.DeleteRange(ctx, nil) },
		func(ctx context.Context) { r.Txn(ctx, nil) },
		func(ctx context.Context) { r.Compact(ctx, nil) },
	}
	for i, send := range methods {
		send(forSession(t.Context()))
		if own.n != i+1 || pass.n != 2*i {
			t.Errorf("method %d of the session: %d own, %d for callers", i, own.n, pass.n)
		}
		c := &call{Context: handling(t.Context())}
		if c.sent.Load() {
			t.Error("sent before anything was")
		}
		send(c)
		if own.n != i+1 || pass.n != 2*i+1 || !c.sent.Load() {
			t.Errorf("method %d for a caller: %d own, %d for callers, noted %v", i, own.n, pass.n, c.sent.Load())
		}
		if send(t.Context()); own.n != i+1 || pass.n != 2*i+2 {
			t.Errorf("method %d for nobody that is known: %d own, %d for callers", i, own.n, pass.n)
		}
	}
}

// patient is etcd that answers a transaction after a while, unless it is cancelled.
type patient struct {
	received
	takes time.Duration
}

func (p *patient) Txn(ctx context.Context, _ *pb.TxnRequest, _ ...grpc.CallOption) (*pb.TxnResponse, error) {
	answer := time.NewTimer(p.takes)
	defer answer.Stop()
	select {
	case <-answer.C:
		return nil, rpctypes.ErrGRPCPermissionDenied
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// What became of a write is waited for though its caller has left, but not for ever; a write
// of the session ends with its context.
func TestWritesOutliveTheirCallers(t *testing.T) {
	for name, tc := range map[string]struct {
		of    func(context.Context) context.Context
		takes time.Duration
		want  error
		after time.Duration
	}{
		"a caller's":                 {handlingOne, settleTimeout / 2, rpctypes.ErrGRPCPermissionDenied, settleTimeout / 2},
		"a caller's, without answer": {handlingOne, time.Hour, context.Canceled, time.Millisecond + settleTimeout},
		"the session's":              {forSession, time.Hour, context.Canceled, time.Millisecond},
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(tc.of(t.Context()))
			time.AfterFunc(time.Millisecond, cancel)
			etcd := &patient{takes: tc.takes}
			begin := time.Now()
			_, err := router{etcd, etcd}.Txn(ctx, nil)
			if took := time.Since(begin); err != tc.want || took != tc.after {
				t.Errorf("%s: %v after %v, want %v after %v", name, err, took, tc.want, tc.after)
			}
			time.Sleep(settleTimeout) // until its timer has gone
		})
	}
}

func handlingOne(ctx context.Context) context.Context { return handling(ctx) }

// Who has a token has leave only to single keys, and nobody another's.
func TestLeaveTo(t *testing.T) {
	s := &kvServer{rights: newRights(bound), anonymous: newAnonymous(bound)}
	k, end, long := []byte("k"), []byte("l"), make([]byte, maxOwnedKey+1)
	for name, tc := range map[string]struct {
		ctx  context.Context
		read *pb.RangeRequest
		want leave
	}{
		"nobody reads":            {handling(t.Context()), &pb.RangeRequest{Key: k}, s.anonymous},
		"nobody reads a range":    {handling(t.Context()), &pb.RangeRequest{Key: k, RangeEnd: end}, s.anonymous},
		"nobody writes":           {handling(t.Context()), nil, s.anonymous},
		"alice reads":             {handling(t.Context(), "token", "alice"), &pb.RangeRequest{Key: k}, s.rights.to("alice", k)},
		"alice reads a range":     {handling(t.Context(), "token", "alice"), &pb.RangeRequest{Key: k, RangeEnd: end}, never{}},
		"alice writes":            {handling(t.Context(), "token", "alice"), nil, never{}},
		"an empty token":          {handling(t.Context(), "token", ""), &pb.RangeRequest{Key: k}, s.rights.to("", k)},
		"nobody reads a long key": {handling(t.Context()), &pb.RangeRequest{Key: long}, never{}},
		"alice reads a long key":  {handling(t.Context(), "token", "alice"), &pb.RangeRequest{Key: long}, never{}},
		"alice reads not as long": {handling(t.Context(), "token", "alice"), &pb.RangeRequest{Key: long[1:]}, s.rights.to("alice", long[1:])},
		"two tokens":              {handling(t.Context(), "token", "alice", "token", "bob"), &pb.RangeRequest{Key: k}, s.rights.to("alice", k)},
		"HTTP's field":            {handling(t.Context(), "authorization", "alice"), &pb.RangeRequest{Key: k}, s.rights.to("alice", k)},
		"both fields":             {handling(t.Context(), "authorization", "bob", "token", "alice"), &pb.RangeRequest{Key: k}, s.rights.to("alice", k)},
	} {
		if got := s.leaveTo(tc.ctx, tc.read); got != tc.want {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}

// What etcd sees of a caller is one token, and whether it asks for a leader.
func TestForwarded(t *testing.T) {
	ctx := handling(t.Context(), "token", "alice", "token", "bob", "hasleader", "true", "other", "x")
	for range 2 { // the second time adds nothing
		ctx = forwarded(ctx)
		out, _ := metadata.FromOutgoingContext(ctx)
		if len(out) != 2 || len(out["token"]) != 1 || out["token"][0] != "alice" || len(out["hasleader"]) != 1 {
			t.Errorf("forwarded: %v", out)
		}
	}
	if out, ok := metadata.FromOutgoingContext(forwarded(handling(t.Context()))); ok {
		t.Errorf("forwarded of nobody: %v", out)
	}
}
