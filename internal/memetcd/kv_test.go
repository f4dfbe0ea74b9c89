package memetcd

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// The rules are compared with a real server in integration/memetcd_test.go. The tables here say what
// they are.

func newClient(t *testing.T, opts Options) (*Server, *clientv3.Client, *Conn) {
	t.Helper()
	srv := New(opts)
	t.Cleanup(srv.Close)
	cli, conn := srv.Client("a")
	return srv, cli, conn
}

func TestRange(t *testing.T) {
	_, cli, _ := newClient(t, Options{})
	ctx := t.Context()
	lease := must(cli.Grant(ctx, 60))(t)
	for i, kv := range []string{"a=3", "b=1", "c=2", "b=5", "d=4", "\xff=0"} { // revisions 2 to 7
		key, val, _ := strings.Cut(kv, "=")
		resp := must(cli.Put(ctx, key, val, clientv3.WithLease(lease.ID)))(t)
		wantEqual(t, "revision", resp.Header.Revision, int64(i+2))
	}
	must(cli.Delete(ctx, "d"))(t) // 8
	must(cli.Compact(ctx, 3))(t)  // b=1 is the oldest that can be read
	all := clientv3.WithFromKey() // of "a"
	tests := []struct {
		name  string
		key   string
		opts  []clientv3.OpOption
		want  string // keys and values
		count int64
		more  bool
		err   error
	}{
		{name: "key", key: "b", want: "b=5", count: 1},
		{name: "absent", key: "x"},
		{name: "deleted", key: "d"},
		{name: "empty key", key: "", err: rpctypes.ErrEmptyKey},
		{name: "interval", key: "a", opts: []clientv3.OpOption{clientv3.WithRange("c")}, want: "a=3 b=5", count: 2},
		{name: "empty interval", key: "c", opts: []clientv3.OpOption{clientv3.WithRange("a")}},
		{name: "from key", key: "b", opts: []clientv3.OpOption{all}, want: "b=5 c=2 \xff=0", count: 3},
		{name: "all", key: "", opts: []clientv3.OpOption{clientv3.WithPrefix()}, want: "a=3 b=5 c=2 \xff=0", count: 4},
		{name: "earlier", key: "a", opts: []clientv3.OpOption{all, clientv3.WithRev(6)}, want: "a=3 b=5 c=2 d=4", count: 4},
		{name: "at the compaction", key: "a", opts: []clientv3.OpOption{all, clientv3.WithRev(3)}, want: "a=3 b=1", count: 2},
		{name: "before the compaction", key: "a", opts: []clientv3.OpOption{clientv3.WithRev(2)}, err: rpctypes.ErrCompacted},
		{name: "in the future", key: "a", opts: []clientv3.OpOption{clientv3.WithRev(9)}, err: rpctypes.ErrFutureRev},
		{name: "negative revision", key: "a", opts: []clientv3.OpOption{clientv3.WithRev(-1)}, want: "a=3", count: 1},
		{name: "limit", key: "a", opts: []clientv3.OpOption{all, clientv3.WithLimit(2)}, want: "a=3 b=5", count: 4, more: true},
		{name: "limit not reached", key: "a", opts: []clientv3.OpOption{all, clientv3.WithLimit(4)}, want: "a=3 b=5 c=2 \xff=0", count: 4},
		{name: "count", key: "a", opts: []clientv3.OpOption{all, clientv3.WithCountOnly()}, count: 4},
		{name: "keys", key: "a", opts: []clientv3.OpOption{all, clientv3.WithKeysOnly()}, want: "a= b= c= \xff=", count: 4},
		{name: "by value", key: "a", opts: []clientv3.OpOption{all, clientv3.WithSort(clientv3.SortByValue, clientv3.SortDescend)}, want: "b=5 a=3 c=2 \xff=0", count: 4},
		{name: "by value, limited", key: "a", opts: []clientv3.OpOption{all, clientv3.WithLimit(1), clientv3.WithSort(clientv3.SortByValue, clientv3.SortAscend)}, want: "\xff=0", count: 4, more: true},
		{name: "sorted after the limit", key: "a", opts: []clientv3.OpOption{all, clientv3.WithLimit(1), clientv3.WithSort(clientv3.SortByValue, clientv3.SortNone)}, want: "a=3", count: 4, more: true},
		{name: "modified late", key: "a", opts: []clientv3.OpOption{all, clientv3.WithMinModRev(5)}, want: "b=5 \xff=0", count: 4},
		{name: "modified early", key: "a", opts: []clientv3.OpOption{all, clientv3.WithMaxModRev(4)}, want: "a=3 c=2", count: 4},
		{name: "created early", key: "a", opts: []clientv3.OpOption{all, clientv3.WithMaxCreateRev(3), clientv3.WithLimit(1)}, want: "a=3", count: 4, more: true},
		{name: "created late", key: "a", opts: []clientv3.OpOption{all, clientv3.WithMinCreateRev(4)}, want: "c=2 \xff=0", count: 4},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			resp, err := cli.Get(ctx, tt.key, tt.opts...)
			if tt.err != nil {
				wantErr(t, err, tt.err)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, kv := range resp.Kvs {
				got = append(got, fmt.Sprintf("%s=%s", kv.Key, kv.Value))
			}
			wantEqual(t, "keys", strings.Join(got, " "), tt.want)
			wantEqual(t, "count", resp.Count, tt.count)
			wantEqual(t, "more", resp.More, tt.more)
			wantEqual(t, "revision", resp.Header.Revision, 8)
			wantEqual(t, "cluster", resp.Header.ClusterId, ClusterID)
			wantEqual(t, "member", resp.Header.MemberId, MemberID)
			wantEqual(t, "term", resp.Header.RaftTerm, 2)
		})
	}
	t.Run("keys have no lease unless sorted by value", func(t *testing.T) {
		byKey := must(cli.Get(ctx, "a", clientv3.WithKeysOnly()))(t)
		byValue := must(cli.Get(ctx, "a", clientv3.WithKeysOnly(), clientv3.WithSort(clientv3.SortByValue, clientv3.SortNone)))(t)
		wantEqual(t, "lease", byKey.Kvs[0].Lease, 0)
		wantEqual(t, "lease", byValue.Kvs[0].Lease, int64(lease.ID))
	})
	t.Run("stream", func(t *testing.T) {
		ch := must(cli.GetStream(ctx, "a", all, clientv3.WithLimit(2)))(t)
		resp := must(clientv3.GetStreamToGetResponse(ch))(t)
		wantEqual(t, "keys", len(resp.Kvs), 2)
		wantEqual(t, "count", resp.Count, 4)
		wantEqual(t, "more", resp.More, true)
		ch = must(cli.GetStream(ctx, "a", clientv3.WithRev(99)))(t)
		_, err := clientv3.GetStreamToGetResponse(ch)
		wantErr(t, err, rpctypes.ErrFutureRev)
	})
}

func TestPut(t *testing.T) {
	_, cli, conn := newClient(t, Options{})
	ctx := t.Context()
	lease := int64(must(cli.Grant(ctx, 60))(t).ID)
	must(cli.Put(ctx, "k", "1", clientv3.WithLease(clientv3.LeaseID(lease))))(t)
	tests := []struct {
		name string
		key  string
		req  *pb.PutRequest
		err  error
		want string // value, version, lease
	}{
		{"nothing special", "k", &pb.PutRequest{Value: []byte("2")}, nil, "2 2 0"},
		{"lease", "k", &pb.PutRequest{Value: []byte("3"), Lease: lease}, nil, fmt.Sprint("3 3 ", lease)},
		{"ignore lease", "k", &pb.PutRequest{Value: []byte("4"), IgnoreLease: true}, nil, fmt.Sprint("4 4 ", lease)},
		{"ignore value", "k", &pb.PutRequest{IgnoreValue: true}, nil, "4 5 0"},
		{"ignore both", "k", &pb.PutRequest{IgnoreValue: true, IgnoreLease: true}, nil, "4 6 0"},
		{"no key", "", &pb.PutRequest{}, rpctypes.ErrGRPCEmptyKey, ""},
		{"value and none", "k", &pb.PutRequest{Value: []byte("5"), IgnoreValue: true}, rpctypes.ErrGRPCValueProvided, ""},
		{"lease and none", "k", &pb.PutRequest{Lease: 1, IgnoreLease: true}, rpctypes.ErrGRPCLeaseProvided, ""},
		{"unknown lease", "k", &pb.PutRequest{Lease: 1}, rpctypes.ErrGRPCLeaseNotFound, ""},
		{"no value to keep", "x", &pb.PutRequest{IgnoreValue: true}, rpctypes.ErrGRPCKeyNotFound, ""},
		{"no lease to keep", "x", &pb.PutRequest{IgnoreLease: true}, rpctypes.ErrGRPCKeyNotFound, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.req.Key, tt.req.PrevKv = []byte(tt.key), true
			before := must(cli.Get(ctx, "k"))(t)
			resp, err := conn.KVClient().Put(ctx, tt.req)
			wantErr(t, err, tt.err)
			if err != nil {
				return
			}
			wantEqual(t, "previous value", string(resp.PrevKv.Value), string(before.Kvs[0].Value))
			wantEqual(t, "revision", resp.Header.Revision, before.Header.Revision+1)
			after := must(cli.Get(ctx, "k"))(t).Kvs[0]
			wantEqual(t, "key", fmt.Sprintf("%s %d %d", after.Value, after.Version, after.Lease), tt.want)
			wantEqual(t, "creation", after.CreateRevision, before.Kvs[0].CreateRevision)
			wantEqual(t, "modification", after.ModRevision, resp.Header.Revision)
		})
	}
}

func TestDelete(t *testing.T) {
	_, cli, _ := newClient(t, Options{})
	ctx := t.Context()
	for _, key := range []string{"a", "b", "c", "d"} {
		must(cli.Put(ctx, key, "v"))(t)
	}
	resp := must(cli.Delete(ctx, "b", clientv3.WithRange("d"), clientv3.WithPrevKV()))(t)
	wantEqual(t, "deleted", resp.Deleted, 2)
	wantEqual(t, "revision", resp.Header.Revision, 6)
	wantEqual(t, "previous", len(resp.PrevKvs), 2)
	resp = must(cli.Delete(ctx, "b", clientv3.WithPrevKV()))(t)
	wantEqual(t, "deleted", resp.Deleted, 0)
	wantEqual(t, "revision of a deletion of nothing", resp.Header.Revision, 6)
	must(cli.Put(ctx, "b", "v"))(t)
	kv := must(cli.Get(ctx, "b"))(t).Kvs[0]
	wantEqual(t, "creation", kv.CreateRevision, 7)
	wantEqual(t, "version", kv.Version, 1)
	_, err := cli.Delete(ctx, "")
	wantErr(t, err, rpctypes.ErrEmptyKey)
}

func TestCompare(t *testing.T) {
	_, cli, _ := newClient(t, Options{})
	ctx := t.Context()
	lease := must(cli.Grant(ctx, 60))(t).ID
	must(cli.Put(ctx, "a", "m"))(t)                            // 2
	must(cli.Put(ctx, "a", "m", clientv3.WithLease(lease)))(t) // 3
	must(cli.Put(ctx, "b", "n"))(t)                            // 4
	tests := []struct {
		name string
		cmp  clientv3.Cmp
		want bool
	}{
		{"value", clientv3.Compare(clientv3.Value("a"), "=", "m"), true},
		{"value less", clientv3.Compare(clientv3.Value("a"), "<", "n"), true},
		{"value greater", clientv3.Compare(clientv3.Value("a"), ">", "m"), false},
		{"version", clientv3.Compare(clientv3.Version("a"), "=", 2), true},
		{"version not", clientv3.Compare(clientv3.Version("a"), "!=", 2), false},
		{"creation", clientv3.Compare(clientv3.CreateRevision("a"), "=", 2), true},
		{"modification", clientv3.Compare(clientv3.ModRevision("a"), "=", 3), true},
		{"lease", clientv3.Compare(clientv3.LeaseValue("a"), "=", lease), true},
		{"absent value", clientv3.Compare(clientv3.Value("x"), "=", ""), false},
		{"absent value not", clientv3.Compare(clientv3.Value("x"), "!=", "y"), false},
		{"absent version", clientv3.Compare(clientv3.Version("x"), "=", 0), true},
		{"absent creation", clientv3.Compare(clientv3.CreateRevision("x"), "<", 1), true},
		{"absent modification", clientv3.Compare(clientv3.ModRevision("x"), "=", 0), true},
		{"absent lease", clientv3.Compare(clientv3.LeaseValue("x"), "=", 0), true},
		{"all of a range", clientv3.Compare(clientv3.Version("a"), ">", 0).WithRange("c"), true},
		{"not all of a range", clientv3.Compare(clientv3.Version("a"), ">", 1).WithRange("c"), false},
		{"empty range", clientv3.Compare(clientv3.Version("x"), "=", 0).WithPrefix(), true},
		{"empty range, value", clientv3.Compare(clientv3.Value("x"), "=", "").WithPrefix(), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			resp := must(cli.Txn(ctx).If(tt.cmp).Commit())(t)
			wantEqual(t, "succeeded", resp.Succeeded, tt.want)
		})
	}
}

func TestTxnOrder(t *testing.T) {
	_, cli, conn := newClient(t, Options{})
	ctx := t.Context()
	must(cli.Put(ctx, "a", "1"))(t) // 2
	resp := must(conn.KVClient().Txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{
		getOp("a"),
		putOp("a", "2"),
		getOp("a"),
		// Decided before the put: a still is 1.
		{Request: &pb.RequestOp_RequestTxn{RequestTxn: &pb.TxnRequest{
			Compare: []*pb.Compare{{Key: []byte("a"), Target: pb.Compare_VALUE, TargetUnion: &pb.Compare_Value{Value: []byte("1")}}},
			Success: []*pb.RequestOp{getOp("a"), delOp("x", "")},
		}}},
	}}))(t)
	wantEqual(t, "outer revision", resp.Header.Revision, 3)
	before, after := resp.Responses[0].GetResponseRange(), resp.Responses[2].GetResponseRange()
	wantEqual(t, "value before the put", string(before.Kvs[0].Value), "1")
	wantEqual(t, "revision before the put", before.Header.Revision, 2)
	wantEqual(t, "value after the put", string(after.Kvs[0].Value), "2")
	wantEqual(t, "revision after the put", after.Header.Revision, 3)
	wantEqual(t, "cluster in an inner header", after.Header.ClusterId, 0)
	nested := resp.Responses[3].GetResponseTxn()
	wantEqual(t, "nested", nested.Succeeded, true)
	wantEqual(t, "revision in a nested header", nested.Header.Revision, 0)
	wantEqual(t, "value in a nested range", string(nested.Responses[0].GetResponseRange().Kvs[0].Value), "2")
	wantEqual(t, "revision of a nested deletion of nothing", nested.Responses[1].GetResponseDeleteRange().Header.Revision, 3)
}

// TestTxnAllOrNothing: a transaction that fails has done nothing, and only the branch that is taken can
// make it fail.
func TestTxnAllOrNothing(t *testing.T) {
	srv, cli, _ := newClient(t, Options{})
	ctx := t.Context()
	absent := clientv3.OpPut("x", "", clientv3.WithIgnoreValue())
	taken := clientv3.Compare(clientv3.Version("x"), "=", 0)
	for name, op := range map[string]clientv3.Op{
		"key":      absent,
		"lease":    clientv3.OpPut("y", "", clientv3.WithLease(77)),
		"revision": clientv3.OpGet("a", clientv3.WithRev(50)),
		"nested":   clientv3.OpTxn(nil, []clientv3.Op{absent}, nil),
	} {
		t.Run(name, func(t *testing.T) {
			before := srv.Revision()
			if _, err := cli.Txn(ctx).If(taken).Then(clientv3.OpPut("k", "v"), op).Commit(); err == nil {
				t.Error("no error")
			}
			wantEqual(t, "revision", srv.Revision(), before)
			must(cli.Txn(ctx).If(taken).Then(clientv3.OpPut("k", "v")).Else(op).Commit())(t)
			wantEqual(t, "revision", srv.Revision(), before+1)
		})
	}
}

func TestTxnChecks(t *testing.T) {
	ops := func(ops ...*pb.RequestOp) []*pb.RequestOp { return ops }
	many := func(n int) []*pb.RequestOp { return slices.Repeat(ops(getOp("k")), n) }
	nest := func(n int, inner *pb.RequestOp) []*pb.RequestOp { return append(many(n-1), inner) }
	dup, tooMany := rpctypes.ErrGRPCDuplicateKey, rpctypes.ErrGRPCTooManyOps
	tests := []struct {
		name string
		ops  []*pb.RequestOp
		want error
	}{
		{"nothing", nil, nil},
		{"empty operation", ops(&pb.RequestOp{}), rpctypes.ErrGRPCKeyNotFound},
		{"no key", ops(putOp("", "")), rpctypes.ErrGRPCEmptyKey},
		{"no key, nested", ops(txnOp(nil, ops(delOp("", "")))), rpctypes.ErrGRPCEmptyKey},
		{"128", many(128), nil},
		{"129", many(129), tooMany},
		{"one outside, 127 inside", nest(1, txnOp(many(127), nil)), nil},
		{"one outside, 128 inside", nest(1, txnOp(many(128), nil)), tooMany},
		{"64 outside, 64 inside", nest(64, txnOp(nil, many(64))), nil},
		{"64 outside, 65 inside", nest(64, txnOp(nil, many(65))), tooMany},
		{"two puts", ops(putOp("k", ""), putOp("k", "")), dup},
		{"put and delete", ops(putOp("k", ""), delOp("k", "")), dup},
		{"put and delete of a range", ops(delOp("a", "z"), putOp("k", "")), dup},
		{"put beside the range", ops(delOp("a", "k"), putOp("k", "")), nil},
		{"two deletes", ops(delOp("k", ""), delOp("a", "z")), nil},
		{"put and delete with an open end", ops(delOp("a", "\x00"), putOp("k", "")), nil},
		{"put in both branches", ops(txnOp(ops(putOp("k", "")), ops(putOp("k", "")))), nil},
		{"put in siblings", ops(txnOp(ops(putOp("k", "")), nil), txnOp(nil, ops(putOp("k", "")))), dup},
		{"put inside and outside", ops(txnOp(ops(putOp("k", "")), nil), putOp("k", "")), dup},
		{"delete inside, put outside", ops(putOp("k", ""), txnOp(ops(delOp("k", "")), nil)), dup},
		{"delete, then put in siblings", ops(txnOp(ops(delOp("k", "")), nil), txnOp(ops(putOp("k", "")), nil)), dup},
		{"put, then delete in siblings", ops(txnOp(ops(putOp("k", "")), nil), txnOp(ops(delOp("k", "")), nil)), nil},
	}
	_, _, conn := newClient(t, Options{})
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := conn.KVClient().Txn(t.Context(), &pb.TxnRequest{Success: tt.ops})
			wantErr(t, err, tt.want)
			_, err = conn.KVClient().Txn(t.Context(), &pb.TxnRequest{Failure: tt.ops})
			wantErr(t, err, tt.want)
		})
	}
	_, small, _ := newClient(t, Options{MaxTxnOps: 1})
	_, err := small.Txn(t.Context()).Then(clientv3.OpGet("a"), clientv3.OpGet("b")).Commit()
	wantErr(t, err, rpctypes.ErrTooManyOps)
}

func TestCompact(t *testing.T) {
	srv, cli, _ := newClient(t, Options{})
	ctx := t.Context()
	for range 5 {
		must(cli.Put(ctx, "a", ""))(t)
		must(cli.Put(ctx, "b", ""))(t)
		must(cli.Delete(ctx, "b"))(t)
	}
	must(cli.Compact(ctx, 13))(t) // b is deleted there
	wantEqual(t, "changes of a", len(srv.store.histories["a"].changes), 2)
	if got := srv.store.keys; !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("keys %q", got)
	}
	must(cli.Compact(ctx, 16))(t)
	if got := srv.store.keys; !slices.Equal(got, []string{"a"}) {
		t.Errorf("keys %q after the last compaction", got)
	}
	for rev, want := range map[int64]error{-1: rpctypes.ErrCompacted, 16: rpctypes.ErrCompacted, 17: rpctypes.ErrFutureRev} {
		_, err := cli.Compact(ctx, rev)
		wantErr(t, err, want)
		wantEqual(t, "errors alike", srv.Compact(rev) != nil, true)
	}
}

func TestLimits(t *testing.T) {
	srv, cli, _ := newClient(t, Options{MaxRequestBytes: 1000})
	ctx := t.Context()
	must(cli.Put(ctx, "k", strings.Repeat("x", 900)))(t)
	_, err := cli.Put(ctx, "k", strings.Repeat("x", 1000))
	wantErr(t, err, rpctypes.ErrRequestTooLarge)
	_, err = cli.Txn(ctx).Then(clientv3.OpPut("k", strings.Repeat("x", 1000))).Commit()
	wantErr(t, err, rpctypes.ErrRequestTooLarge)
	_, err = cli.Put(ctx, "k", strings.Repeat("x", 2<<20))
	if err == nil || !strings.Contains(err.Error(), "trying to send message larger than max") {
		t.Errorf("error %v", err)
	}

	srv.SetNoSpace(true)
	_, err = cli.Put(ctx, "k", "v")
	wantErr(t, err, rpctypes.ErrNoSpace)
	nested := clientv3.OpTxn(nil, nil, []clientv3.Op{clientv3.OpPut("k", "v")})
	_, err = cli.Txn(ctx).Then(clientv3.OpDelete("k")).Else(nested).Commit()
	wantErr(t, err, rpctypes.ErrNoSpace)
	_, err = cli.Grant(ctx, 5)
	wantErr(t, err, rpctypes.ErrNoSpace)
	must(cli.Txn(ctx).Then(clientv3.OpDelete("k")).Else(clientv3.OpGet("k")).Commit())(t)
	srv.SetNoSpace(false)
	must(cli.Put(ctx, "k", "v"))(t)
}

// TestImpossiblePut: what kills a real server is at least loud here.
func TestImpossiblePut(t *testing.T) {
	w := newStore().begin()
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	put(w, newLessor(1, 1), &pb.PutRequest{Key: []byte("k"), IgnoreValue: true})
}

// TestIsolation: what a client does to a request or a reply changes nothing anywhere else.
func TestIsolation(t *testing.T) {
	_, cli, conn := newClient(t, Options{})
	ctx := t.Context()
	kv := conn.KVClient()
	req := &pb.PutRequest{Key: []byte("k"), Value: []byte("value")}
	must(kv.Put(ctx, req))(t)
	req.Key[0], req.Value[0] = 'x', 'x'
	wantEqual(t, "value", value(t, cli, "k"), "value")

	for range 2 {
		resp := must(cli.Get(ctx, "k"))(t)
		wantEqual(t, "value", string(resp.Kvs[0].Value), "value")
		resp.Kvs[0].Key[0], resp.Kvs[0].Value[0], resp.Kvs[0].ModRevision = 'x', 'x', 99
	}
	one, two := cli.Watch(ctx, "k", clientv3.WithRev(2)), cli.Watch(ctx, "k", clientv3.WithRev(2))
	first := <-one
	first.Events[0].Kv.Value[0] = 'x'
	second := <-two
	wantEqual(t, "event", string(second.Events[0].Kv.Value), "value")

	txn := must(kv.Txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{getOp("k"), getOp("k")}}))(t)
	txn.Responses[0].GetResponseRange().Kvs[0].Value[0] = 'x'
	wantEqual(t, "twin in a transaction", string(txn.Responses[1].GetResponseRange().Kvs[0].Value), "value")
	must(cli.Put(ctx, "empty", ""))(t)
	if v := must(cli.Get(ctx, "empty"))(t).Kvs[0].Value; v != nil {
		t.Errorf("an empty value arrives as %#v", v)
	}
}

func TestRecords(t *testing.T) {
	srv, cli, conn := newClient(t, Options{})
	ctx := t.Context()
	must(cli.Txn(ctx).Then(clientv3.OpPut("a", "0")).Commit())(t)
	srv.RecordTxns()
	must(cli.Txn(ctx).Then(clientv3.OpPut("a", "1")).Commit())(t)
	must(srv.NewClient("b").Txn(ctx).Then(clientv3.OpPut("a", "2")).Commit())(t)
	if _, err := cli.Txn(ctx).Then(clientv3.OpPut("a", "3", clientv3.WithLease(5))).Commit(); err == nil {
		t.Fatal("no error")
	}
	txns := srv.Txns()
	wantEqual(t, "transactions", len(txns), 2)
	wantEqual(t, "client", txns[1].Client, "b")
	wantEqual(t, "value", string(txns[1].Request.Success[0].GetRequestPut().Value), "2")
	wantEqual(t, "revision", txns[1].Response.Header.Revision, 4)

	stats := srv.Stats()
	wantEqual(t, "received", stats.Received[MethodTxn], 4)
	wantEqual(t, "applied", stats.Applied[MethodTxn], 3)
	wantEqual(t, "total", stats.Total(), 4)
	wantEqual(t, "sent", conn.Sent()[MethodTxn], 3)
}
