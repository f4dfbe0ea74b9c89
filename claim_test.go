package leasing

import (
	"context"
	"testing"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
)

// recorder is the wire end of a client: it notes the transaction it is given.
type recorder struct {
	etcdserverpb.KVClient
	last *etcdserverpb.TxnRequest
}

func (r *recorder) Txn(_ context.Context, req *etcdserverpb.TxnRequest, _ ...grpc.CallOption) (*etcdserverpb.TxnResponse, error) {
	r.last = req
	return &etcdserverpb.TxnResponse{Header: &etcdserverpb.ResponseHeader{}}, nil
}

// requestOf is what goes over the wire for the transaction op.
func requestOf(t testing.TB, op clientv3.Op) *etcdserverpb.TxnRequest {
	t.Helper()
	r := new(recorder)
	if _, err := clientv3.NewKVFromKVClient(r, nil).Do(t.Context(), op); err != nil {
		t.Fatal(err)
	}
	if r.last == nil {
		t.Fatal("nothing was sent")
	}
	return proto.Clone(r.last).(*etcdserverpb.TxnRequest)
}

// comparing wraps one comparison for requestOf.
func comparing(c clientv3.Cmp) clientv3.Op { return clientv3.OpTxn([]clientv3.Cmp{c}, nil, nil) }

// What other implementations of the same format see. It is not ours to change.
func TestWireFormat(t *testing.T) {
	l := newLayout("leasing/")
	op := func(c clause) clientv3.Op { return c.op() }
	for _, tc := range []struct {
		name string
		op   clientv3.Op
		want string
	}{
		{"claim", op(l.claim("k", 7)), `
			compare { key: "leasing/k" target: CREATE result: EQUAL create_revision: 0 }
			compare { key: "k" target: LEASE result: EQUAL lease: 0 }
			success { request_range { key: "k" } }
			success { request_put { key: "leasing/k" lease: 7 } }
			failure { request_range { key: "k" } }
			failure { request_range { key: "leasing/k" } }`},
		{"revoke", op(l.revoke("k", 5)), `
			compare { key: "leasing/k" target: CREATE result: EQUAL create_revision: 5 }
			compare { key: "leasing/k" target: VALUE value: "" }
			success { request_put { key: "leasing/k" value: "REVOKE" ignore_lease: true } }
			failure { request_range { key: "leasing/k" } }`},
		{"claim all or none", op(join([]clause{l.claim("j", 7), l.claim("k", 7)})), `
			compare { key: "leasing/j" target: CREATE create_revision: 0 }
			compare { key: "j" target: LEASE lease: 0 }
			compare { key: "leasing/k" target: CREATE create_revision: 0 }
			compare { key: "k" target: LEASE lease: 0 }
			success { request_range { key: "j" } }
			success { request_put { key: "leasing/j" lease: 7 } }
			success { request_range { key: "k" } }
			success { request_put { key: "leasing/k" lease: 7 } }`},
		{"revoke whoever has it", op(l.revokeAny("k")), `
			compare { key: "leasing/k" target: VALUE value: "" }
			success { request_put { key: "leasing/k" value: "REVOKE" ignore_lease: true } }
			failure { request_range { key: "leasing/k" } }`},
		{"yield", op(l.yield(yield{key: "k", grant: 5})), `
			compare { key: "leasing/k" target: CREATE result: EQUAL create_revision: 5 }
			success { request_delete_range { key: "leasing/k" } }`},
		{"yield of a grant that was never told", op(l.yield(yield{key: "k", lease: &lease{id: 7}})), `
			success { request_range { key: "leasing/k" } }`},
		{"guard of an owned key", comparing(l.holds("k", 5)), `
			compare { key: "leasing/k" target: CREATE result: EQUAL create_revision: 5 }`},
		{"guard of an unclaimed key", comparing(l.holds("k", 0)), `
			compare { key: "leasing/k" target: CREATE result: EQUAL create_revision: 0 }`},
		{"guard of a range", comparing(l.unclaimedSince(keyRange{"a", "b"}, 9)), `
			compare { key: "leasing/a" range_end: "leasing/b" target: CREATE result: LESS create_revision: 10 }`},
		{"guard of a range without end", comparing(l.unclaimedSince(keyRange{"a", openEnd}, 9)), `
			compare { key: "leasing/a" range_end: "leasing0" target: CREATE result: LESS create_revision: 10 }`},
	} {
		want := new(etcdserverpb.TxnRequest)
		if err := prototext.Unmarshal([]byte(tc.want), want); err != nil {
			t.Fatalf("%s: %v", tc.name, err)
		}
		if got := requestOf(t, tc.op); !proto.Equal(got, want) {
			t.Errorf("%s:\n got %v\nwant %v", tc.name, got, want)
		}
	}
}

// Invariant: I5. Every guard says "equal", or "not newer than" over a range.
func TestI5GuardsOfPointsAreEqualities(t *testing.T) {
	l := newLayout("leasing/")
	for _, grant := range []int64{0, 1, 77} {
		guard := l.holds("k", grant)
		c := guard.GetCompare()
		if c.Result != etcdserverpb.Compare_EQUAL || c.Target != etcdserverpb.Compare_CREATE || len(c.RangeEnd) > 0 {
			t.Errorf("the guard of grant %d is %v", grant, c)
		}
	}
}

func TestClaimRecords(t *testing.T) {
	l := newLayout("leasing/")
	for _, tc := range []struct {
		kv   *mvccpb.KeyValue
		want claimRecord
	}{
		{&mvccpb.KeyValue{Key: []byte("leasing/k"), CreateRevision: 5, ModRevision: 5, Lease: 7}, claimRecord{"k", 5, 7, false}},
		{&mvccpb.KeyValue{Key: []byte("leasing/k"), CreateRevision: 5, ModRevision: 9, Lease: 7, Value: []byte("REVOKE")}, claimRecord{"k", 5, 7, true}},
		{&mvccpb.KeyValue{Key: []byte("leasing/leasing/k"), CreateRevision: 5}, claimRecord{"leasing/k", 5, 0, false}},
		{&mvccpb.KeyValue{Key: []byte("leasing/"), CreateRevision: 5}, claimRecord{"", 5, 0, false}},
		{&mvccpb.KeyValue{Key: []byte("leasing/k"), CreateRevision: 5, Value: []byte("revoke")}, claimRecord{"k", 5, 0, false}},
	} {
		if got := l.record(tc.kv); got != tc.want {
			t.Errorf("record(%v) = %+v, want %+v", tc.kv, got, tc.want)
		}
	}
}
