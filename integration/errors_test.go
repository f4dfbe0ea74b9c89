package integration_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-leasing/leasing"
)

// What etcd refuses gets etcd's own error, and changes nothing: neither in
// etcd nor in memory.
func TestBadInputGivesTheServersError(t *testing.T) {
	w := newWorld(t)
	w.write("old", "1")
	w.write("old", "2")
	_, err := w.leased.cl.Compact(w.ctx, w.revision())
	w.must(err)
	_, err = w.plain.cl.Compact(w.ctx, w.plain.revs[len(w.plain.revs)-1])
	w.must(err)
	no := clientv3.LeaseID(0x7777)
	put, get, del := clientv3.OpPut, clientv3.OpGet, clientv3.OpDelete
	large := strings.Repeat("x", 1700<<10) // larger than etcd takes, but not than clients send
	larger := strings.Repeat("x", 3<<20)
	txn := func(ops ...clientv3.Op) func(string) clientv3.Op {
		return func(key string) clientv3.Op {
			return clientv3.OpTxn(nil, append([]clientv3.Op{put(key, "new")}, ops...), nil)
		}
	}
	is := func(err error) func(error) bool { return func(got error) bool { return errors.Is(got, err) } }
	says := func(text string) func(error) bool {
		return func(got error) bool { return strings.Contains(got.Error(), text) }
	}
	for _, c := range []struct {
		name string
		op   func(key string) clientv3.Op
		is   func(error) bool
	}{
		{"put of no key", func(string) clientv3.Op { return put("", "v") }, is(rpctypes.ErrEmptyKey)},
		{"get of no key", func(string) clientv3.Op { return get("") }, is(rpctypes.ErrEmptyKey)},
		{"delete of no key", func(string) clientv3.Op { return del("") }, is(rpctypes.ErrEmptyKey)},
		{"delete from no key", func(string) clientv3.Op { return del("", clientv3.WithRange("z")) }, is(rpctypes.ErrEmptyKey)},
		{"put of no key beside others", txn(put("", "v")), is(rpctypes.ErrEmptyKey)},
		{"get of no key beside others", txn(get("")), is(rpctypes.ErrEmptyKey)},
		{"delete of no key beside others", txn(del("")), is(rpctypes.ErrEmptyKey)},
		{"delete from no key beside others", txn(del("", clientv3.WithRange("z"))), is(rpctypes.ErrEmptyKey)},
		{"nested get of no key", txn(clientv3.OpTxn(nil, []clientv3.Op{get("")}, nil)), is(rpctypes.ErrEmptyKey)},
		{"get of no key alone in a transaction", func(string) clientv3.Op { return clientv3.OpTxn(nil, []clientv3.Op{get("")}, nil) }, is(rpctypes.ErrEmptyKey)},
		{"comparison of no key", func(key string) clientv3.Op {
			return clientv3.OpTxn([]clientv3.Cmp{clientv3.Compare(clientv3.Version(""), "=", 0)}, []clientv3.Op{put(key, "new")}, nil)
		}, is(rpctypes.ErrEmptyKey)},
		{"large value", func(key string) clientv3.Op { return put(key, large) }, is(rpctypes.ErrRequestTooLarge)},
		{"large transaction", func(key string) clientv3.Op {
			return clientv3.OpTxn(nil, []clientv3.Op{put(key, large[:900<<10]), put(key+"-", large[:900<<10])}, nil)
		}, is(rpctypes.ErrRequestTooLarge)},
		{"larger value", func(key string) clientv3.Op { return put(key, larger) }, says("trying to send message larger than max")},
		{"too many operations", txn(many(128, func(key string) clientv3.Op { return get(key) }, "g")...), is(rpctypes.ErrTooManyOps)},
		{"too many nested operations", txn(clientv3.OpTxn(nil, many(128, func(key string) clientv3.Op { return get(key) }, "g"), nil)), is(rpctypes.ErrTooManyOps)},
		{"two puts of a key", func(key string) clientv3.Op {
			return clientv3.OpTxn(nil, []clientv3.Op{put(key, "a"), put(key, "b")}, nil)
		}, is(rpctypes.ErrDuplicateKey)},
		{"two puts in an else", func(key string) clientv3.Op {
			return clientv3.OpTxn([]clientv3.Cmp{clientv3.Compare(clientv3.Version(key), ">", -1)}, []clientv3.Op{get(key)}, []clientv3.Op{put(key, "a"), put(key, "b")})
		}, is(rpctypes.ErrDuplicateKey)},
		{"unknown lease", func(key string) clientv3.Op { return put(key, "v", clientv3.WithLease(no)) }, is(rpctypes.ErrLeaseNotFound)},
		{"unknown lease beside others", func(key string) clientv3.Op {
			return clientv3.OpTxn(nil, []clientv3.Op{put(key+"-", "v"), put(key, "v", clientv3.WithLease(no))}, nil)
		}, is(rpctypes.ErrLeaseNotFound)},
		{"value to be ignored", func(key string) clientv3.Op { return put(key, "v", clientv3.WithIgnoreValue()) }, is(rpctypes.ErrValueProvided)},
		{"lease to be ignored", func(key string) clientv3.Op {
			return put(key, "v", clientv3.WithLease(no), clientv3.WithIgnoreLease())
		}, is(rpctypes.ErrLeaseProvided)},
		{"unknown order", func(key string) clientv3.Op { return get(key, clientv3.WithSort(clientv3.SortByKey, 7)) }, is(rpctypes.ErrInvalidSortOption)},
		{"unknown order in a transaction", func(key string) clientv3.Op {
			return clientv3.OpTxn(nil, []clientv3.Op{get(key, clientv3.WithSort(9, clientv3.SortAscend))}, nil)
		}, is(rpctypes.ErrInvalidSortOption)},
		{"future", func(key string) clientv3.Op { return get(key, clientv3.WithRev(1<<40)) }, is(rpctypes.ErrFutureRev)},
		{"future beside others", txn(get("x", clientv3.WithRev(1<<40))), is(rpctypes.ErrFutureRev)},
		{"compacted", func(key string) clientv3.Op { return get(key, clientv3.WithRev(1)) }, is(rpctypes.ErrCompacted)},
		{"compacted beside others", txn(get("x", clientv3.WithRev(1))), is(rpctypes.ErrCompacted)},
	} {
		w.run(c.name, func(w *world) {
			w.each(c.name, func(key string, st state) {
				if strings.HasPrefix(c.name, "large") && !st.present {
					return // it takes long enough without
				}
				op := c.op(key)
				want := describe(func() error { _, err := w.plain.kv.Do(w.ctx, op); return err }())
				_, err := w.kv.Do(w.ctx, op)
				if err == nil || !c.is(err) || !strings.HasPrefix(c.name, "larger") && describe(err) != want {
					w.Errorf("%v: %s; the plain client's error: %s", st, describe(err), want)
				}
				w.agree(st.String(), key)
				w.same("then", func(s *side) (any, error) { return s.kv.Get(w.ctx, key+"-") })
			})
		})
	}
	w.run("compact", func(w *world) {
		for _, rev := range []int64{1, 1 << 40} {
			_, want := w.plain.kv.Compact(w.ctx, rev)
			if _, err := w.kv.Compact(w.ctx, rev); err == nil || describe(err) != describe(want) {
				w.Errorf("compact %d: %s, not %s", rev, describe(err), describe(want))
			}
		}
	})
}

// An ignored value or lease of a key that does not exist fails all of a
// transaction, but only if its branch is taken. Nothing of it is applied.
func TestRefusedTransactionChangesNothing(t *testing.T) {
	w := newWorld(t)
	for i, opt := range []clientv3.OpOption{clientv3.WithIgnoreValue(), clientv3.WithIgnoreLease()} {
		value := []string{"", "v"}[i]
		for _, taken := range []bool{true, false} {
			w.each(fmt.Sprint(i, taken), func(key string, st state) {
				what := fmt.Sprintf("%v, taken %v", st, taken)
				version := int64(7)
				if taken {
					version = 0
				}
				w.same(what, func(s *side) (any, error) {
					return s.kv.Txn(w.ctx).If(clientv3.Compare(clientv3.Version("missing"), "=", version)).
						Then(clientv3.OpPut(key, "new"), clientv3.OpPut("missing", value, opt)).Else(clientv3.OpPut(key, "else")).Commit()
				})
				w.agree(what, key)
				w.agree(what, "missing")
			})
		}
	}
}

// Claims are no data: single writes of them are refused at once, reads of them are etcd's.
func TestClaimsAreNotData(t *testing.T) {
	w := newWorld(t)
	w.bring("k", state{isForeign, true})
	before := w.claims()
	put, del := clientv3.OpPut("leasing/k", "v"), clientv3.OpDelete("leasing/k")
	n := sending(w.sent, func() {
		for i, op := range []clientv3.Op{
			put, del, clientv3.OpPut("leasing/", "v"),
			clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpGet("k"), put}, nil),
			clientv3.OpTxn([]clientv3.Cmp{clientv3.Compare(clientv3.Version("k"), "=", 0)}, nil, []clientv3.Op{del}),
			clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpTxn(nil, []clientv3.Op{put}, nil)}, nil),
		} {
			if _, err := w.kv.Do(w.ctx, op); !errors.Is(err, leasing.ErrClaimPrefix) {
				w.Errorf("write %d of a claim: %v", i, err)
			}
		}
	})
	if n != 0 {
		w.Errorf("%d requests", n)
	}
	for range 2 {
		resp, err := w.kv.Get(w.ctx, "leasing/k")
		w.must(err)
		if len(resp.Kvs) != 1 || resp.Kvs[0].CreateRevision != before["k"] || resp.Kvs[0].Lease == 0 {
			w.Errorf("the claim is read as %v", resp.Kvs)
		}
	}
	if after := w.claims(); fmt.Sprint(after) != fmt.Sprint(before) {
		w.Errorf("the claims were %v and are %v", before, after)
	}
}
