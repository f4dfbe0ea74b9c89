package memetcd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

type next = func(context.Context) (proto.Message, error)

// TestIntercept: whatever can happen to a write on its way, and what became of it.
func TestIntercept(t *testing.T) {
	tests := []struct {
		name      string
		intercept Interceptor
		err       error
		took      time.Duration
		value     string // right after the call
		later     string // ten seconds after that
	}{
		{
			name:      "nothing",
			intercept: func(ctx context.Context, _ *Call, do next) (proto.Message, error) { return do(ctx) },
			value:     "new", later: "new",
		},
		{
			name:      "request lost",
			intercept: func(context.Context, *Call, next) (proto.Message, error) { return nil, ErrLost },
			err:       context.DeadlineExceeded, took: 5 * time.Second, value: "old", later: "old",
		},
		{
			name: "reply lost",
			intercept: func(ctx context.Context, _ *Call, do next) (proto.Message, error) {
				_, _ = do(ctx)
				return nil, ErrLost
			},
			err: context.DeadlineExceeded, took: 5 * time.Second, value: "new", later: "new",
		},
		{
			name: "late",
			intercept: func(ctx context.Context, _ *Call, do next) (proto.Message, error) {
				time.Sleep(3 * time.Second)
				return do(ctx)
			},
			took: 3 * time.Second, value: "new", later: "new",
		},
		{
			name: "too late",
			intercept: func(ctx context.Context, _ *Call, do next) (proto.Message, error) {
				time.Sleep(8 * time.Second)
				return do(ctx)
			},
			err: context.DeadlineExceeded, took: 5 * time.Second, value: "old", later: "old",
		},
		{
			name: "applied after the caller gave up",
			intercept: func(ctx context.Context, _ *Call, do next) (proto.Message, error) {
				time.Sleep(8 * time.Second)
				return do(context.WithoutCancel(ctx))
			},
			err: context.DeadlineExceeded, took: 5 * time.Second, value: "old", later: "new",
		},
		{
			name: "refused",
			intercept: func(context.Context, *Call, next) (proto.Message, error) {
				return nil, rpctypes.ErrGRPCNoSpace
			},
			err: rpctypes.ErrNoSpace, value: "old", later: "old",
		},
		{
			name: "applied and refused",
			intercept: func(ctx context.Context, _ *Call, do next) (proto.Message, error) {
				_, _ = do(ctx)
				return nil, rpctypes.ErrGRPCNoSpace
			},
			err: rpctypes.ErrNoSpace, value: "new", later: "new",
		},
		{
			name: "request changed",
			intercept: func(ctx context.Context, call *Call, do next) (proto.Message, error) {
				call.Request.(*pb.PutRequest).Value = []byte("changed")
				return do(ctx)
			},
			value: "changed", later: "changed",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, Options{}, func(t *testing.T, srv *Server) {
				cli, conn := srv.Client("a")
				other := srv.NewClient("b")
				must(cli.Put(t.Context(), "k", "old"))(t)
				conn.Intercept(func(ctx context.Context, call *Call, do next) (proto.Message, error) {
					if call.Method != MethodPut {
						return do(ctx)
					}
					return tt.intercept(ctx, call, do)
				})
				start := time.Now()
				_, err := cli.Put(within(t, 5*time.Second), "k", "new")
				wantErr(t, err, tt.err)
				wantEqual(t, "took", time.Since(start), tt.took)
				wantEqual(t, "value", value(t, other, "k"), tt.value)
				time.Sleep(10 * time.Second)
				wantEqual(t, "value later", value(t, other, "k"), tt.later)
				conn.Intercept(nil)
				must(cli.Put(t.Context(), "k", "old"))(t)
			})
		})
	}
}

func TestInterceptedErrors(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, srv *Server) {
		cli, conn := srv.Client("a")
		for _, err := range []error{errors.New("plain"), context.Canceled, status.Error(codes.Aborted, "status")} {
			conn.Intercept(func(context.Context, *Call, next) (proto.Message, error) { return nil, err })
			_, got := cli.Get(t.Context(), "k")
			want := err
			if _, ok := status.FromError(err); !ok {
				want = status.FromContextError(err).Err()
			}
			wantEqual(t, "error", got.Error(), want.Error())
		}
	})
}

// TestInterceptStreams: a keep-alive whose reply is lost renews the lease all the same, and an error ends
// the stream.
func TestInterceptStreams(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, srv *Server) {
		cli, conn := srv.Client("a")
		ctx := t.Context()
		lease := must(cli.Grant(ctx, 5))(t).ID
		conn.Intercept(func(ctx context.Context, call *Call, do next) (proto.Message, error) {
			if call.Method == MethodLeaseKeepAlive {
				_, _ = do(ctx) // renewed, and nobody learns of it
				return nil, ErrLost
			}
			return do(ctx)
		})
		time.Sleep(2 * time.Second)
		_, err := cli.KeepAliveOnce(within(t, time.Second), lease)
		wantErr(t, err, context.DeadlineExceeded)
		time.Sleep(3 * time.Second)
		wantEqual(t, "seconds left", must(cli.TimeToLive(ctx, lease))(t).TTL, 1)

		conn.Intercept(func(context.Context, *Call, next) (proto.Message, error) {
			return nil, rpctypes.ErrGRPCPermissionDenied
		})
		_, err = cli.KeepAliveOnce(ctx, lease)
		wantErr(t, err, rpctypes.ErrPermissionDenied)

		// The messages of a watch stream are seen, too.
		var creates int
		conn.Intercept(func(ctx context.Context, call *Call, do next) (proto.Message, error) {
			if r, ok := call.Request.(*pb.WatchRequest); ok && r.GetCreateRequest() != nil {
				if creates++; creates == 1 {
					return nil, rpctypes.ErrGRPCLeaderChanged // unavailable: clientv3 tries again
				}
			}
			return do(ctx)
		})
		wch := cli.Watch(ctx, "k")
		must(cli.Put(ctx, "k", "v"))(t)
		wantEqual(t, "events", len(events(t, wch)), 1)
		wantEqual(t, "attempts", creates, 2)
	})
}

func TestCut(t *testing.T) {
	tests := []struct {
		cut     Direction
		applied bool
	}{{Requests, false}, {Replies, true}, {Both, false}}
	for _, tt := range tests {
		t.Run(fmt.Sprint(tt.cut), func(t *testing.T) {
			bubble(t, Options{}, func(t *testing.T, srv *Server) {
				cli, conn := srv.Client("a")
				other := srv.NewClient("b")
				ctx := t.Context()
				wch := cli.Watch(ctx, "k")
				conn.Cut(tt.cut)

				_, err := cli.Put(within(t, time.Second), "k", "abandoned")
				wantErr(t, err, context.DeadlineExceeded)
				wantEqual(t, "applied", value(t, other, "k") == "abandoned", tt.applied)
				var wg sync.WaitGroup
				wg.Go(func() { must(cli.Put(ctx, "k", "patient"))(t) })
				synctest.Wait()
				wantEqual(t, "applied", value(t, other, "k") == "patient", tt.applied)
				must(other.Put(ctx, "k", "from b"))(t)
				wantEqual(t, "events", silent(wch), tt.cut != Requests)

				time.Sleep(time.Hour)
				conn.Heal()
				wg.Wait()
				want := "from b"
				if !tt.applied {
					want = "patient" // it only arrives now
				}
				wantEqual(t, "value", value(t, other, "k"), want)
			})
		})
	}
}

// TestCutKeepsLeases: with only the replies cut, keep-alives go on renewing a lease whose holder must
// think it lost.
func TestCutKeepsLeases(t *testing.T) {
	for dir, alive := range map[Direction]bool{Requests: false, Replies: true} {
		bubble(t, Options{}, func(t *testing.T, srv *Server) {
			cli, conn := srv.Client("a")
			lease := must(cli.Grant(t.Context(), 3))(t).ID
			conn.Cut(dir)
			for range 10 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				_, err := cli.KeepAliveOnce(ctx, lease)
				wantErr(t, err, context.DeadlineExceeded)
				cancel()
			}
			left := must(srv.NewClient("b").TimeToLive(t.Context(), lease))(t).TTL
			wantEqual(t, "alive", left > 0, alive)
		})
	}
}

func TestReset(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, srv *Server) {
		cli, conn := srv.Client("a")
		ctx := t.Context()
		for dir, applied := range map[Direction]bool{Requests: false, Replies: true} {
			conn.Cut(dir)
			key := fmt.Sprint(dir)
			failed := make(chan error)
			go func() {
				_, err := cli.Put(ctx, key, "v")
				failed <- err
			}()
			synctest.Wait()
			conn.Reset()
			wantEqual(t, "code", status.Code(<-failed), codes.Unavailable)
			conn.Heal()
			wantEqual(t, "applied", value(t, cli, key) == "v", applied)
		}
		alive := must(cli.KeepAlive(ctx, must(cli.Grant(ctx, 60))(t).ID))(t)
		<-alive
		conn.Reset()
		synctest.Wait()
		time.Sleep(time.Minute)
		<-alive // on a new stream
	})
}

func TestLatency(t *testing.T) {
	bubble(t, Options{Latency: 10 * time.Millisecond}, func(t *testing.T, srv *Server) {
		cli, conn := srv.Client("a")
		ctx := t.Context()
		start := time.Now()
		lap := func(what string, want time.Duration) {
			t.Helper()
			wantEqual(t, what, time.Since(start), want)
			start = time.Now()
		}
		must(cli.Put(ctx, "k", "v"))(t)
		lap("put", 20*time.Millisecond)
		lease := must(cli.Grant(ctx, 60))(t).ID
		lap("grant", 20*time.Millisecond)
		must(cli.KeepAliveOnce(ctx, lease))(t)
		lap("keep-alive", 20*time.Millisecond)
		wch := cli.Watch(ctx, "k", clientv3.WithCreatedNotify())
		<-wch
		lap("watch", 20*time.Millisecond)
		conn.SetLatency(0)
		must(cli.Put(ctx, "k", "w"))(t)
		<-wch
		lap("event without latency", 0)
		// Messages at the same time do not wait for each other.
		conn.SetLatency(10 * time.Millisecond)
		for range 3 {
			go func() { must(cli.Put(ctx, "k", "x"))(t) }()
		}
		for range 3 {
			<-wch
		}
		lap("three events", 20*time.Millisecond)
	})
}

func TestDelayWatch(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, srv *Server) {
		cli, conn := srv.Client("a")
		ctx := t.Context()
		wch := cli.Watch(ctx, "k")
		conn.DelayWatch(5 * time.Second)
		start := time.Now()
		must(cli.Put(ctx, "k", "1"))(t)
		wantEqual(t, "requests are not late", time.Since(start), 0)
		time.Sleep(time.Second)
		conn.DelayWatch(0)
		must(cli.Put(ctx, "k", "2"))(t)
		wantEqual(t, "first", fmt.Sprint(events(t, wch)), "[PUT k=1]")
		wantEqual(t, "second", fmt.Sprint(events(t, wch)), "[PUT k=2]")
		wantEqual(t, "late by", time.Since(start), 5*time.Second)
	})
}

// TestDeny: what a request names is asked for, in both branches of a transaction.
func TestDeny(t *testing.T) {
	srv, cli, conn := newClient(t, Options{})
	ctx := t.Context()
	lease := must(cli.Grant(ctx, 60))(t).ID
	must(srv.NewClient("b").Put(ctx, "none/k", "v", clientv3.WithLease(lease)))(t)
	must(cli.Put(ctx, "read/k", "v"))(t)
	free := must(cli.Grant(ctx, 60))(t).ID
	conn.Deny(func(key, _ []byte, write bool) bool {
		dir, _, _ := strings.Cut(string(key), "/")
		return dir == "none" || write && dir == "read" || !write && dir == "write"
	})
	txn := func(c clientv3.Cmp, then, otherwise clientv3.Op) clientv3.Op {
		return clientv3.OpTxn([]clientv3.Cmp{c}, []clientv3.Op{then}, []clientv3.Op{otherwise})
	}
	ok, okCmp := clientv3.OpGet("read/k"), clientv3.Compare(clientv3.Version("read/k"), ">", 0)
	tests := []struct {
		name   string
		op     clientv3.Op
		denied bool
	}{
		{"read", clientv3.OpGet("read/k"), false},
		{"read what may be written", clientv3.OpGet("write/k"), true},
		{"write", clientv3.OpPut("write/k", ""), false},
		{"write what may be read", clientv3.OpPut("read/k", ""), true},
		{"previous value", clientv3.OpPut("write/k", "", clientv3.WithPrevKV()), true},
		{"delete", clientv3.OpDelete("write/k"), false},
		{"delete what may be read", clientv3.OpDelete("read/k"), true},
		{"delete with previous values", clientv3.OpDelete("write/k", clientv3.WithPrevKV()), true},
		{"lease with other keys", clientv3.OpPut("write/k", "", clientv3.WithLease(lease)), true},
		{"own lease", clientv3.OpPut("write/k", "", clientv3.WithLease(free)), false},
		{"transaction", txn(okCmp, ok, clientv3.OpPut("write/k", "")), false},
		{"comparison", txn(clientv3.Compare(clientv3.Version("write/k"), ">", 0), ok, ok), true},
		{"branch not taken", txn(okCmp, ok, clientv3.OpDelete("none/k")), true},
		{"nested", txn(okCmp, ok, txn(okCmp, ok, clientv3.OpGet("none/k"))), true},
		{"read-only", txn(okCmp, ok, clientv3.OpGet("none/k")), true},
	}
	for _, tt := range tests {
		_, err := cli.Do(ctx, tt.op)
		if denied := errors.Is(err, rpctypes.ErrPermissionDenied); denied != tt.denied || !denied && err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	_, err := cli.Compact(ctx, 2)
	wantErr(t, err, rpctypes.ErrPermissionDenied)
	_, err = cli.KeepAliveOnce(ctx, lease)
	wantErr(t, err, rpctypes.ErrPermissionDenied)
	_, err = cli.Revoke(ctx, lease)
	wantErr(t, err, rpctypes.ErrPermissionDenied)
	_, err = cli.TimeToLive(ctx, lease, clientv3.WithAttachedKeys())
	wantErr(t, err, rpctypes.ErrPermissionDenied)
	must(cli.TimeToLive(ctx, lease))(t)
	_, err = cli.Leases(ctx)
	wantErr(t, err, rpctypes.ErrPermissionDenied)
	conn.Deny(nil)
	must(cli.Revoke(ctx, lease))(t)
}

// TestClose: whatever is under way ends, and what comes later fails at once.
func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := New(Options{})
		cli, conn := srv.Client("a")
		ctx := context.Background()
		lease := must(cli.Grant(ctx, 60))(t).ID
		alive := must(cli.KeepAlive(ctx, lease))(t)
		<-alive
		wch := cli.Watch(ctx, "k")
		srv.LoseLeader()
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				_, err := cli.Put(ctx, "k", "v")
				wantEqual(t, "code", status.Code(err), codes.Unavailable)
			})
			synctest.Wait()
			conn.Cut(Both)
		}
		srv.Close()
		srv.Close()
		wg.Wait()
		<-wch
		for range alive {
		}
		_, err := cli.Get(ctx, "k")
		wantEqual(t, "code", status.Code(err), codes.Unavailable)
		late, _ := srv.Client("late")
		_, err = late.Get(ctx, "k")
		wantEqual(t, "code", status.Code(err), codes.Unavailable)
		_ = late.Close()
	})
}

// TestCloseClient: a closed client does nothing more, and its neighbours go on.
func TestCloseClient(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, srv *Server) {
		cli, other := srv.NewClient("a"), srv.NewClient("b")
		ctx := t.Context()
		wch := cli.Watch(ctx, "k")
		_ = cli.Close()
		<-wch
		synctest.Wait()
		_, err := cli.Get(ctx, "k")
		wantEqual(t, "code", status.Code(err), codes.Canceled)
		must(other.Put(ctx, "k", "v"))(t)
		wantEqual(t, "streams", len(srv.streams), 0)
	})
}

// TestNeitherReplyNorError: an interceptor that forgets its result is a bug of the test.
func TestNeitherReplyNorError(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	_, _ = outcome{}.checked()
}
