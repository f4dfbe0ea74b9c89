package memetcd

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// bubble runs a test against a server in virtual time. That it returns shows that Close ends everything:
// synctest fails a test whose goroutines remain.
func bubble(t *testing.T, opts Options, test func(t *testing.T, srv *Server)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		srv := New(opts)
		defer srv.Close()
		test(t, srv)
	})
}

// must returns v, or ends the test.
func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func wantErr(t testing.TB, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Fatalf("error %v, want %v", got, want)
	}
}

func wantEqual[T comparable](t testing.TB, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Fatalf("%s: %v, want %v", what, got, want)
	}
}

// within is a context that ends after d.
func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// value reads a key; "-" is none.
func value(t testing.TB, cli *clientv3.Client, key string) string {
	t.Helper()
	resp := must(cli.Get(t.Context(), key))(t)
	if len(resp.Kvs) == 0 {
		return "-"
	}
	return string(resp.Kvs[0].Value)
}

// events receives the events of one message of a watch, as "PUT k=v" or "DELETE k".
func events(t testing.TB, wch clientv3.WatchChan) []string {
	t.Helper()
	resp, ok := <-wch
	if !ok {
		t.Fatal("watch channel closed")
	}
	if err := resp.Err(); err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, ev := range resp.Events {
		s := ev.Type.String() + " " + string(ev.Kv.Key)
		if ev.Type == clientv3.EventTypePut {
			s += "=" + string(ev.Kv.Value)
		}
		out = append(out, s)
	}
	return out
}

// silent reports whether a watch has nothing to say now.
func silent(wch clientv3.WatchChan) bool {
	synctest.Wait()
	select {
	case <-wch:
		return false
	default:
		return true
	}
}

func putOp(key, value string) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(key), Value: []byte(value)}}}
}

func delOp(key, end string) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte(key), RangeEnd: []byte(end)}}}
}

func getOp(key string) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte(key)}}}
}

func txnOp(then, otherwise []*pb.RequestOp) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: &pb.TxnRequest{Success: then, Failure: otherwise}}}
}
