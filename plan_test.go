package leasing

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
)

const planPrefix = "claims/"

// planned is what is sent for a transaction of the user's. grants tells what
// is owned; keys in yielding are being given back.
func planned(t testing.TB, p *plan, grants map[string]int64, yielding string, listed int64) (request, *etcdserverpb.TxnRequest) {
	t.Helper()
	w := &write{points: make([]pin, len(p.points))}
	for i, key := range p.points {
		w.points[i] = pin{grant: grants[key], ours: key == yielding}
	}
	q := p.request(w, listed, p.single() && new(caution).expect(w.points[0]))
	return q, requestOf(t, clientv3.OpTxn(q.guards, q.then, q.els))
}

func plans(t testing.TB, maxOps int, op clientv3.Op) *plan {
	t.Helper()
	cmps, then, els := op.Txn()
	p, err := newPlan(newLayout(planPrefix), maxOps, cmps, then, els)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func then(ops ...clientv3.Op) clientv3.Op { return clientv3.OpTxn(nil, ops, nil) }

// Invariants: I4, I5. What is sent for transactions of each kind.
func TestI4I5PlannedRequests(t *testing.T) {
	exists := clientv3.Compare(clientv3.Version("c"), ">", 0)
	for _, tc := range []struct {
		name     string
		op       clientv3.Op
		grants   map[string]int64
		yielding string
		want     string
	}{
		{"put of an unclaimed key", then(clientv3.OpPut("k", "v")), nil, "", `
			compare { key: "claims/k" target: CREATE create_revision: 0 }
			success { request_put { key: "k" value: "v" } }
			failure { request_range { key: "claims/k" } }
			failure { request_txn {
				compare { key: "claims/k" target: VALUE value: "" }
				success { request_put { key: "claims/k" value: "REVOKE" ignore_lease: true } }
				failure { request_range { key: "claims/k" } } } }`},
		{"put of an owned key", then(clientv3.OpPut("k", "v")), map[string]int64{"k": 7}, "", `
			compare { key: "claims/k" target: CREATE create_revision: 7 }
			success { request_put { key: "k" value: "v" } }
			success { request_range { key: "k" } }
			failure { request_range { key: "claims/k" } }`},
		{"put of a key that we are giving back", then(clientv3.OpPut("k", "v")), nil, "k", `
			compare { key: "claims/k" target: CREATE create_revision: 0 }
			success { request_put { key: "k" value: "v" } }
			failure { request_range { key: "claims/k" } }`},
		{"delete holds no put", then(clientv3.OpDelete("k")), map[string]int64{"k": 7}, "", `
			compare { key: "claims/k" target: CREATE create_revision: 7 }
			success { request_delete_range { key: "k" } }
			success { request_range { key: "k" } }
			failure { request_range { key: "claims/k" } }`},
		{"two puts do not ask", then(clientv3.OpPut("k", "v"), clientv3.OpPut("j", "w")), map[string]int64{"k": 7}, "", `
			compare { key: "claims/j" target: CREATE create_revision: 0 }
			compare { key: "claims/k" target: CREATE create_revision: 7 }
			success { request_put { key: "k" value: "v" } }
			success { request_put { key: "j" value: "w" } }
			success { request_range { key: "k" } }
			failure { request_range { key: "claims/j" } }
			failure { request_range { key: "claims/k" } }`},
		{"comparisons go inside", clientv3.OpTxn([]clientv3.Cmp{exists}, []clientv3.Op{clientv3.OpPut("k", "v")}, []clientv3.Op{clientv3.OpGet("k")}), map[string]int64{"k": 7}, "", `
			compare { key: "claims/k" target: CREATE create_revision: 7 }
			success { request_txn {
				compare { key: "c" target: VERSION result: GREATER version: 0 }
				success { request_put { key: "k" value: "v" } }
				failure { request_range { key: "k" } } } }
			success { request_range { key: "k" } }
			failure { request_range { key: "claims/k" } }`},
		{"keys of nested branches are guarded too", then(clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpPut("j", "v")}, []clientv3.Op{clientv3.OpPut("j", "w"), clientv3.OpDelete("i")})), nil, "", `
			compare { key: "claims/i" target: CREATE create_revision: 0 }
			compare { key: "claims/j" target: CREATE create_revision: 0 }
			success { request_txn {
				success { request_put { key: "j" value: "v" } }
				failure { request_put { key: "j" value: "w" } }
				failure { request_delete_range { key: "i" } } } }
			failure { request_range { key: "claims/i" } }
			failure { request_range { key: "claims/j" } }`},
		{"a range", then(clientv3.OpDelete("a", clientv3.WithRange("c"))), nil, "", `
			compare { key: "claims/a" range_end: "claims/c" target: CREATE result: LESS create_revision: 10 }
			success { request_delete_range { key: "a" range_end: "c" } }
			failure { request_range { key: "claims/a" range_end: "claims/c" limit: 5000 min_create_revision: 10 } }`},
		{"ranges that overlap have one guard", then(clientv3.OpDelete("e", clientv3.WithRange("g")), clientv3.OpDelete("f", clientv3.WithRange("h"))), nil, "", `
			compare { key: "claims/e" range_end: "claims/h" target: CREATE result: LESS create_revision: 10 }
			success { request_delete_range { key: "e" range_end: "g" } }
			success { request_delete_range { key: "f" range_end: "h" } }
			failure { request_range { key: "claims/e" range_end: "claims/h" limit: 5000 min_create_revision: 10 } }`},
		{"a range above the claims without end", then(clientv3.OpDelete("x", clientv3.WithFromKey())), nil, "", `
			compare { key: "claims/x" range_end: "claims0" target: CREATE result: LESS create_revision: 10 }
			success { request_delete_range { key: "x" range_end: "\000" } }
			failure { request_range { key: "claims/x" range_end: "claims0" limit: 5000 min_create_revision: 10 } }`},
		{"everything but the claims", then(clientv3.OpDelete("", clientv3.WithPrefix(), clientv3.WithPrevKV())), nil, "", `
			compare { key: "claims/\000" range_end: "claims/claims/" target: CREATE result: LESS create_revision: 10 }
			compare { key: "claims/claims0" range_end: "claims0" target: CREATE result: LESS create_revision: 10 }
			success { request_delete_range { key: "\000" range_end: "claims/" prev_kv: true } }
			success { request_delete_range { key: "claims0" range_end: "\000" prev_kv: true } }
			failure { request_range { key: "claims/\000" range_end: "claims/claims/" limit: 5000 min_create_revision: 10 } }
			failure { request_range { key: "claims/claims0" range_end: "claims0" limit: 5000 min_create_revision: 10 } }`},
		{"nothing at all", then(clientv3.OpDelete("claims/", clientv3.WithPrefix())), nil, "", `
			success { request_delete_range { key: "claims/" range_end: "claims/" } }`},
		{"nothing but claims", then(clientv3.OpDelete("claims/", clientv3.WithPrefix()), clientv3.OpPut("k", "v")), nil, "", `
			compare { key: "claims/k" target: CREATE create_revision: 0 }
			success { request_delete_range { key: "claims/" range_end: "claims/" } }
			success { request_put { key: "k" value: "v" } }
			failure { request_range { key: "claims/k" } }`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			want := new(etcdserverpb.TxnRequest)
			if err := prototext.Unmarshal([]byte(tc.want), want); err != nil {
				t.Fatal(err)
			}
			if _, got := planned(t, plans(t, 128, tc.op), tc.grants, tc.yielding, 9); !proto.Equal(got, want) {
				t.Errorf("\n got %v\nwant %v", got, want)
			}
		})
	}
}

func TestPlansThatReadOnly(t *testing.T) {
	for _, op := range []clientv3.Op{
		then(), then(clientv3.OpGet("k")), then(clientv3.OpGet("claims/k"), then(clientv3.OpGet("k", clientv3.WithPrefix()))),
	} {
		if !plans(t, 128, op).readOnly() {
			t.Errorf("%v is taken for a write", op)
		}
	}
	for _, op := range []clientv3.Op{
		then(clientv3.OpPut("k", "")), then(then(clientv3.OpDelete("k"))), then(clientv3.OpDelete("a", clientv3.WithRange("b"))),
		then(clientv3.OpDelete("claims/", clientv3.WithPrefix())), // has to be turned into nothing
		clientv3.OpTxn(nil, nil, []clientv3.Op{clientv3.OpPut("k", "")}),
	} {
		if plans(t, 128, op).readOnly() {
			t.Errorf("%v is taken for a read", op)
		}
	}
}

// Invariant: I13. The error names the key and the prefix, wherever it stands.
func TestI13ErrClaimPrefixNamesTheKey(t *testing.T) {
	for _, bad := range []clientv3.Op{clientv3.OpPut("claims/k\xff", ""), clientv3.OpDelete("claims/k\xff")} {
		for _, op := range []clientv3.Op{
			then(bad), then(clientv3.OpPut("a", ""), bad), then(then(then(bad))),
			clientv3.OpTxn(nil, nil, []clientv3.Op{bad}), then(clientv3.OpTxn(nil, nil, []clientv3.Op{bad})),
		} {
			cmps, ops, els := op.Txn()
			_, err := newPlan(newLayout(planPrefix), 128, cmps, ops, els)
			if !errors.Is(err, ErrClaimPrefix) || !strings.Contains(err.Error(), `"claims/k\xff"`) || !strings.Contains(err.Error(), `"claims/"`) {
				t.Errorf("%v", err)
			}
		}
	}
	// The names beside it are free.
	for _, key := range []string{"claims", "claims0", "claims.", "\x00", "\xff"} {
		plans(t, 128, then(clientv3.OpPut(key, "")))
	}
}

// A transaction that etcd would take, but that leaves no room for a guard, is
// refused with the limit; one that is too large for etcd too is left to etcd.
func TestErrTxnTooLargeNamesTheLimit(t *testing.T) {
	puts := func(n int) (ops []clientv3.Op) {
		for i := range n {
			ops = append(ops, clientv3.OpPut(fmt.Sprintf("k%03d", i), ""))
		}
		return ops
	}
	cmps := slices.Repeat([]clientv3.Cmp{clientv3.Compare(clientv3.Version("c"), "=", 0)}, 128)
	for _, maxOps := range []int{8, 64, 128} {
		for _, tc := range []struct {
			what string
			op   clientv3.Op
			bad  bool
		}{
			{"as many puts as fit beside a guard", then(puts(maxOps - 1)...), false},
			{"as many puts as etcd takes", then(puts(maxOps)...), false}, // guards take no room: there is a list of them
			{"more than etcd takes", then(puts(maxOps + 1)...), false},
			{"with comparisons, one less than etcd takes", clientv3.OpTxn(cmps[:1], puts(maxOps-1), nil), false},
			{"with comparisons, as many as etcd takes", clientv3.OpTxn(cmps[:1], puts(maxOps), nil), true},
			{"as many comparisons as etcd takes", clientv3.OpTxn(cmps[:maxOps], puts(1), nil), true},
			{"more than it takes", clientv3.OpTxn(cmps[:1], puts(maxOps+1), nil), false},
			{"reads only", clientv3.OpTxn(cmps[:maxOps], []clientv3.Op{clientv3.OpGet("k")}, nil), false},
		} {
			c, ops, els := tc.op.Txn()
			_, err := newPlan(newLayout(planPrefix), maxOps, c, ops, els)
			if tc.bad != errors.Is(err, ErrTxnTooLarge) || !tc.bad && err != nil {
				t.Errorf("limit %d, %s: %v", maxOps, tc.what, err)
			}
			if tc.bad && (!strings.Contains(err.Error(), fmt.Sprintf("limit of %d ", maxOps)) || !strings.Contains(err.Error(), "--max-txn-ops")) {
				t.Errorf("limit %d, %s: %v does not name the limit", maxOps, tc.what, err)
			}
		}
	}
}

// The user's reply is cut out of the whole one, and deletions that were
// divided around the claims are put together again, at every level.
func TestI13RepliesToDividedDeletions(t *testing.T) {
	all := clientv3.OpDelete("", clientv3.WithPrefix(), clientv3.WithPrevKV())
	claims := clientv3.OpDelete("claims/", clientv3.WithPrefix())
	exists := []clientv3.Cmp{clientv3.Compare(clientv3.Version("c"), ">", 0)}
	del := func(n int64, prev ...string) string {
		s := fmt.Sprintf("response_delete_range { header { revision: 20 } deleted: %d ", n)
		for _, k := range prev {
			s += fmt.Sprintf("prev_kvs { key: %q } ", k)
		}
		return s + "}"
	}
	get := "response_range { header { revision: 20 } count: 1 }"
	for _, tc := range []struct {
		name      string
		op        clientv3.Op
		got, want string
	}{
		{"flat", then(clientv3.OpGet("k"), all, clientv3.OpGet("k")),
			"succeeded: true responses {" + get + "} responses {" + del(2, "a", "b") + "} responses {" + del(1, "x") + "} responses {" + get + "}",
			"succeeded: true responses {" + get + "} responses {" + del(3, "a", "b", "x") + "} responses {" + get + "}"},
		{"nothing but claims", then(claims, clientv3.OpGet("k")),
			"succeeded: true responses {" + del(0) + "} responses {" + get + "}",
			"succeeded: true responses {" + del(0) + "} responses {" + get + "}"},
		{"the branch taken, under a comparison", clientv3.OpTxn(exists, []clientv3.Op{clientv3.OpGet("k")}, []clientv3.Op{all, claims}),
			"succeeded: true responses { response_txn { succeeded: false responses {" + del(1, "a") + "} responses {" + del(0) + "} responses {" + del(0) + "} } }",
			"succeeded: false responses {" + del(1, "a") + "} responses {" + del(0) + "}"},
		{"nested", then(clientv3.OpTxn(exists, []clientv3.Op{all}, []clientv3.Op{claims, clientv3.OpGet("k")}), all),
			"succeeded: true responses { response_txn { succeeded: false responses {" + del(0) + "} responses {" + get + "} } } responses {" + del(0) + "} responses {" + del(1, "x") + "}",
			"succeeded: true responses { response_txn { succeeded: false responses {" + del(0) + "} responses {" + get + "} } } responses {" + del(1, "x") + "}"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			read := func(s string) *etcdserverpb.TxnResponse {
				r := new(etcdserverpb.TxnResponse)
				if err := prototext.Unmarshal([]byte("header { revision: 20 } "+s), r); err != nil {
					t.Fatal(err)
				}
				return r
			}
			p := plans(t, 128, tc.op)
			q, _ := planned(t, p, nil, "", 9)
			got := (*etcdserverpb.TxnResponse)(p.reply(q, (*clientv3.TxnResponse)(read(tc.got))))
			if !proto.Equal(got, read(tc.want)) {
				t.Errorf("\n got %v\nwant %v", got, read(tc.want))
			}
		})
	}
}

// Invariant: I4. Read-backs go to the points that they belong to; what a
// refusal says of the claims does so too.
func TestI4ReadBacksAndClaimsOfAReply(t *testing.T) {
	p := plans(t, 128, then(clientv3.OpPut("c", "v"), clientv3.OpPut("a", "v"), clientv3.OpPut("b", "v")))
	q, _ := planned(t, p, map[string]int64{"a": 3, "c": 5}, "", 0)
	kv := func(key string) *etcdserverpb.ResponseOp {
		return &etcdserverpb.ResponseOp{Response: &etcdserverpb.ResponseOp_ResponseRange{ResponseRange: &etcdserverpb.RangeResponse{
			Kvs: []*mvccpb.KeyValue{{Key: []byte(key), CreateRevision: int64(key[len(key)-1])}}}}}
	}
	none := &etcdserverpb.ResponseOp{Response: &etcdserverpb.ResponseOp_ResponseRange{ResponseRange: &etcdserverpb.RangeResponse{}}}
	put := &etcdserverpb.ResponseOp{Response: &etcdserverpb.ResponseOp_ResponsePut{ResponsePut: &etcdserverpb.PutResponse{}}}
	resp := &clientv3.TxnResponse{Header: &etcdserverpb.ResponseHeader{}, Succeeded: true,
		Responses: []*etcdserverpb.ResponseOp{put, put, put, kv("a"), none}}
	got := p.readBacks(q, resp)
	if string(got[0].kv.GetKey()) != "a" || !got[0].done || got[1].done || !got[2].done || got[2].kv != nil {
		t.Errorf("read back: %v", got)
	}
	if r := p.reply(q, resp); len(r.Responses) != 3 || !r.Succeeded {
		t.Errorf("the user's reply: %v", r)
	}
	claims := p.claims(&clientv3.TxnResponse{Responses: []*etcdserverpb.ResponseOp{none, kv("claims/b"), kv("claims/c")}})
	if claims[0] != nil || claims[1].key != "b" || claims[1].grant != 'b' || claims[2].key != "c" {
		t.Errorf("claims: %v", claims)
	}
}

// A put beside the first part of a divided open range is an error of etcd's
// that the plain client would not see, and is explained.
func TestI13ErrorsOfDividedDeletionsAreExplained(t *testing.T) {
	open := plans(t, 128, then(clientv3.OpDelete("a", clientv3.WithFromKey()), clientv3.OpPut("b", "")))
	if err := open.explain(rpctypes.ErrDuplicateKey); !errors.Is(err, rpctypes.ErrDuplicateKey) || !strings.Contains(err.Error(), planPrefix) {
		t.Errorf("%v", err)
	}
	if err := open.explain(rpctypes.ErrNoSpace); err != rpctypes.ErrNoSpace {
		t.Errorf("%v", err)
	}
	bounded := plans(t, 128, then(clientv3.OpDelete("a", clientv3.WithRange("x")), clientv3.OpPut("b", "")))
	if err := bounded.explain(rpctypes.ErrDuplicateKey); err != rpctypes.ErrDuplicateKey {
		t.Errorf("%v", err)
	}
}
