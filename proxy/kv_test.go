package proxy_test

import (
	"context"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/etcd-leasing/leasing"
	"github.com/etcd-leasing/leasing/integration/etcdtest"
	"github.com/etcd-leasing/leasing/proxy"
)

// What etcd itself counts shows that it is not asked.
func TestOwnedKeyIsReadFromMemory(t *testing.T) {
	m, opt := metered(t)
	etcd := etcdtest.Start(t, etcdtest.QuickTicks(), opt)
	p := start(t, etcd)
	cl := p.client("")
	put(t, cl, "k", "v")
	p.owned(cl, "k")
	all := []string{"Range", "Txn", "Put", "DeleteRange"}
	before := m.handled(t, all...)
	if before == 0 {
		t.Fatal("etcd has counted nothing")
	}
	for i := range 1000 {
		if i%2 == 0 {
			get(t, cl, "k", "v")
		} else {
			get(t, cl, "k", "v", clientv3.WithSerializable())
		}
	}
	if n := m.handled(t, all...) - before; n != 0 {
		t.Errorf("etcd answered %d requests for 1000 gets", n)
	}
}

// A put through one proxy takes the key from another.
func TestWriteThroughAnotherProxyIsSeen(t *testing.T) {
	etcd := etcdtest.Start(t, etcdtest.QuickTicks())
	a, b := start(t, etcd), start(t, etcd)
	ca, cb := a.client(""), b.client("")
	put(t, ca, "k", "1")
	a.owned(ca, "k")
	put(t, cb, "k", "2")
	if keys := claimed(t, etcd.Client(0)); len(keys) != 0 {
		t.Errorf("claimed after the put: %q", keys)
	}
	get(t, ca, "k", "2")
	b.owned(cb, "k")
	if keys := claimed(t, etcd.Client(0)); !slices.Equal(keys, []string{"k"}) {
		t.Errorf("claimed at the end: %q", keys)
	}
}

// Two proxies and a library that an application embeds share their claims, with a
// namespace as without. The library calls the keys what they are called in etcd.
func TestProxiesAndLibraryShareClaims(t *testing.T) {
	for _, ns := range []string{"", "app/"} {
		t.Run("namespace "+ns, func(t *testing.T) {
			etcd := etcdtest.Start(t, etcdtest.QuickTicks())
			named := func(cfg *proxy.Config) { cfg.Namespace = ns }
			a, b := start(t, etcd, named), start(t, etcd, named)
			lib, err := leasing.New(within(t), etcd.Client(0), leasing.Config{Prefix: claims})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { lib.Close() })
			ca, cb := a.client(""), b.client("")
			writes := []func(string){
				func(v string) { put(t, ca, "k", v) },
				func(v string) { put(t, cb, "k", v) },
				func(v string) { put(t, lib, ns+"k", v) },
			}
			for i := range 12 {
				v := string(rune('a' + i))
				writes[rand.IntN(len(writes))](v)
				for range 2 {
					get(t, ca, "k", v)
					get(t, cb, "k", v)
					get(t, lib, ns+"k", v)
				}
			}
			eventually(t, "the key is claimed", func() bool {
				get(t, ca, "k", "l")
				return slices.Equal(claimed(t, etcd.Client(0)), []string{ns + "k"})
			})
		})
	}
}

// In a namespace clients see their keys, and no claims.
func TestNamespace(t *testing.T) {
	etcd := etcdtest.Start(t, etcdtest.QuickTicks())
	plain := etcd.Client(0)
	put(t, plain, "other", "x")
	p := start(t, etcd, func(cfg *proxy.Config) { cfg.Namespace = "app/" })
	cl := p.client("")
	put(t, cl, "a", "1")
	put(t, cl, "b", "2")
	p.owned(cl, "a")
	get(t, plain, "app/a", "1")
	for name, opts := range map[string][]clientv3.OpOption{
		"prefix": {clientv3.WithPrefix()}, "from key": {clientv3.WithFromKey()},
	} {
		resp, err := cl.Get(within(t), "", opts...)
		if err != nil || len(resp.Kvs) != 2 || string(resp.Kvs[0].Key) != "a" || string(resp.Kvs[1].Key) != "b" {
			t.Errorf("%s: %v, %v", name, resp, err)
		}
	}
	var streamed []string
	stream, err := cl.GetStream(within(t), "", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	for r := range stream {
		if r.Err() != nil {
			t.Fatal(r.Err())
		}
		for _, kv := range r.GetKvs() {
			streamed = append(streamed, string(kv.Key))
		}
	}
	if !slices.Equal(streamed, []string{"a", "b"}) {
		t.Errorf("streamed: %q", streamed)
	}
	if _, err := cl.Delete(within(t), "", clientv3.WithFromKey()); err != nil {
		t.Fatal(err)
	}
	get(t, plain, "other", "x")
	get(t, plain, "app/a", "")
}

// Requests that no client library would send are answered as etcd answers them, and
// leave the proxy running.
func TestOddRequests(t *testing.T) {
	etcd := etcdtest.Start(t, etcdtest.QuickTicks())
	p := start(t, etcd)
	cl := p.client("")
	here, there := pb.NewKVClient(cl.ActiveConnection()), pb.NewKVClient(etcd.Client(0).ActiveConnection())
	put(t, cl, "k", "v")
	p.owned(cl, "k")
	k := []byte("k")
	putK := &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: k}}}
	getK := &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: k}}}
	for name, r := range map[string]proto.Message{
		"range, no key":         &pb.RangeRequest{},
		"range, no key but end": &pb.RangeRequest{RangeEnd: []byte{0}},
		"range, bad order":      &pb.RangeRequest{Key: k, SortOrder: 7},
		"range, bad target":     &pb.RangeRequest{Key: k, SortTarget: -1},
		"range, revision":       &pb.RangeRequest{Key: k, Revision: 1 << 40},
		"range, negative limit": &pb.RangeRequest{Key: k, Limit: -1},
		"range, negative rev":   &pb.RangeRequest{Key: k, Revision: -1},
		"put, no key":           &pb.PutRequest{},
		"put, value ignored":    &pb.PutRequest{Key: k, Value: k, IgnoreValue: true},
		"put, lease ignored":    &pb.PutRequest{Key: k, Lease: 1, IgnoreLease: true},
		"put, no such lease":    &pb.PutRequest{Key: k, Lease: 1},
		"delete, no key":        &pb.DeleteRangeRequest{},
		"txn, empty":            &pb.TxnRequest{},
		"txn, no operation":     &pb.TxnRequest{Success: []*pb.RequestOp{{}}},
		"txn, comparison of nothing": &pb.TxnRequest{
			Compare: []*pb.Compare{{}}, Success: []*pb.RequestOp{getK}},
		"txn, comparison without target": &pb.TxnRequest{
			Compare: []*pb.Compare{{Key: k}}, Success: []*pb.RequestOp{getK}},
		"txn, comparison with a value but by version": &pb.TxnRequest{
			Compare: []*pb.Compare{{Key: k, TargetUnion: &pb.Compare_Value{Value: k}}}, Success: []*pb.RequestOp{getK}},
		"txn, odd result": &pb.TxnRequest{
			Compare: []*pb.Compare{{Key: k, Result: 9, TargetUnion: &pb.Compare_Version{Version: 1}}}, Success: []*pb.RequestOp{getK}},
		"txn, odd target": &pb.TxnRequest{
			Compare: []*pb.Compare{{Key: k, Target: 9, TargetUnion: &pb.Compare_Version{Version: 1}}}, Success: []*pb.RequestOp{getK}},
		"txn, range without a key": &pb.TxnRequest{Failure: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{}}}},
		"txn, nested nothing":      &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestTxn{RequestTxn: &pb.TxnRequest{Success: []*pb.RequestOp{{}}}}}}},
		"txn, twice the same":      &pb.TxnRequest{Success: []*pb.RequestOp{putK, putK}},
		"compaction to come":       &pb.CompactionRequest{Revision: 1 << 40},
	} {
		got, err := ask(within(t), here, r)
		want, wantErr := ask(within(t), there, r)
		if status.Code(err) != status.Code(wantErr) || status.Convert(err).Message() != status.Convert(wantErr).Message() {
			t.Errorf("%s: %v, but etcd: %v", name, err, wantErr)
		}
		if err == nil && !proto.Equal(bare(got), bare(want)) {
			t.Errorf("%s: %v, but etcd: %v", name, got, want)
		}
	}
	get(t, cl, "k", "v")
}

func ask(ctx context.Context, kv pb.KVClient, r proto.Message) (proto.Message, error) {
	switch r := proto.Clone(r).(type) {
	case *pb.RangeRequest:
		return kv.Range(ctx, r)
	case *pb.PutRequest:
		return kv.Put(ctx, r)
	case *pb.DeleteRangeRequest:
		return kv.DeleteRange(ctx, r)
	case *pb.TxnRequest:
		return kv.Txn(ctx, r)
	case *pb.CompactionRequest:
		return kv.Compact(ctx, r)
	}
	panic("what is this?")
}

// bare is a reply without what differs: the header, in it the revision that claims
// have raised meanwhile.
func bare(m proto.Message) proto.Message {
	type headed interface{ GetHeader() *pb.ResponseHeader }
	m = proto.Clone(m)
	if h, ok := m.(headed); ok {
		proto.Reset(h.GetHeader())
	}
	return m
}

// etcd's errors are known for what they are on the other side.
func TestErrorsAreEtcds(t *testing.T) {
	etcd := etcdtest.Start(t, etcdtest.QuickTicks())
	p := start(t, etcd)
	cl := p.client("")
	put(t, cl, "k", "v")
	if _, err := cl.Get(within(t), "k", clientv3.WithRev(1<<40)); err != rpctypes.ErrFutureRev {
		t.Errorf("future revision: %v", err)
	}
	if _, err := cl.Put(within(t), "k", "v", clientv3.WithLease(77)); err != rpctypes.ErrLeaseNotFound {
		t.Errorf("no such lease: %v", err)
	}
	if _, err := cl.Put(within(t), claims+"k", "v"); !strings.HasPrefix(status.Convert(err).Message(), leasing.ErrClaimPrefix.Error()) {
		t.Errorf("put of a claim: %v", err)
	}
	etcd.SetNoSpace(true)
	defer etcd.SetNoSpace(false)
	if _, err := cl.Put(within(t), "k", "w"); err != rpctypes.ErrNoSpace {
		t.Errorf("no space: %v", err)
	}
}
