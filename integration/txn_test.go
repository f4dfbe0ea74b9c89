package integration_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-leasing/leasing"
)

// many returns n operations on keys under a prefix, each on one of its own.
func many(n int, op func(key string) clientv3.Op, prefix string) (ops []clientv3.Op) {
	for i := range n {
		ops = append(ops, op(numbered(prefix, i)))
	}
	return ops
}

func numbered(prefix string, i int) string { return fmt.Sprintf("%s%03d", prefix, i) }

// bringAll is bring for n keys, with the owners in turn. Every fourth key is present.
func (w *world) bringAll(prefix string, n int, owners []string) {
	w.Helper()
	var wg sync.WaitGroup
	for i := range n {
		key := numbered(prefix, i)
		if i%4 == 0 {
			w.write(key, "1")
		}
		for owner, kv := range map[string]clientv3.KV{isOwned: w.kv, isForeign: w.other} {
			if owners[i%len(owners)] == owner {
				wg.Go(func() { _, _ = kv.Get(w.ctx, key) })
			}
		}
	}
	wg.Wait()
	want := 0
	for i := range n {
		if owners[i%len(owners)] != isUnclaimed {
			want++
		}
	}
	claims, err := w.leased.cl.Get(w.ctx, "leasing/"+prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
	w.must(err)
	if int(claims.Count) != want {
		w.Fatalf("%d of %d keys are claimed, not %d", claims.Count, n, want)
	}
}

// What etcd takes is taken, as long as there is room for a guard: 127
// operations at each level, comparisons or not. What etcd refuses gets its
// error, and what leaves no room for a guard gets ours, which names the limit.
func TestTransactionsUpToTheLimit(t *testing.T) {
	w := newWorld(t)
	put := func(key string) clientv3.Op { return clientv3.OpPut(key, "v", clientv3.WithPrevKV()) }
	del := func(key string) clientv3.Op { return clientv3.OpDelete(key, clientv3.WithPrevKV()) }
	get := func(key string) clientv3.Op { return clientv3.OpGet(key) }
	yes := func(prefix string) clientv3.Cmp { return clientv3.Compare(clientv3.Version(prefix), "=", 0) }
	version := func(n int, prefix string) (cmps []clientv3.Cmp) {
		for i := range n {
			cmps = append(cmps, clientv3.Compare(clientv3.Version(numbered(prefix, i)), "<", 9))
		}
		return cmps
	}
	nested := func(cmps []clientv3.Cmp, ops ...clientv3.Op) clientv3.Op { return clientv3.OpTxn(cmps, ops, nil) }
	for _, c := range []struct {
		name  string
		n     int // how many keys there are
		txn   func(s *side, p string) clientv3.Txn
		large bool // there is no room for a guard
		every bool // with every kind of owner, not just owned keys
	}{
		{"127 puts", 127, func(s *side, p string) clientv3.Txn { return s.kv.Txn(w.ctx).Then(many(127, put, p)...) }, false, true},
		{"127 deletes", 127, func(s *side, p string) clientv3.Txn { return s.kv.Txn(w.ctx).Then(many(127, del, p)...) }, false, true},
		{"126 gets and a put", 127, func(s *side, p string) clientv3.Txn {
			return s.kv.Txn(w.ctx).Then(append(many(126, get, p), put(p+"126"))...)
		}, false, false},
		{"128 gets", 3, func(s *side, p string) clientv3.Txn { return s.kv.Txn(w.ctx).Then(many(128, get, p)...) }, false, false},
		{"129 gets", 3, func(s *side, p string) clientv3.Txn { return s.kv.Txn(w.ctx).Then(many(129, get, p)...) }, false, false},
		{"129 puts", 3, func(s *side, p string) clientv3.Txn { return s.kv.Txn(w.ctx).Then(many(129, put, p)...) }, false, false},
		{"60 puts, 1 comparison", 60, func(s *side, p string) clientv3.Txn {
			return s.kv.Txn(w.ctx).If(yes(p)).Then(many(60, put, p)...)
		}, false, true},
		{"60 puts, 60 comparisons, 60 deletes", 60, func(s *side, p string) clientv3.Txn {
			return s.kv.Txn(w.ctx).If(version(60, p)...).Then(many(60, put, p)...).Else(many(60, del, p)...)
		}, false, false},
		{"60 puts in an else", 60, func(s *side, p string) clientv3.Txn {
			return s.kv.Txn(w.ctx).If(clientv3.Compare(clientv3.Value(p), "=", "no")).Then(many(60, del, p)...).Else(many(60, put, p)...)
		}, false, false},
		{"127 puts, 1 comparison", 127, func(s *side, p string) clientv3.Txn {
			return s.kv.Txn(w.ctx).If(yes(p)).Then(many(127, put, p)...)
		}, false, true},
		{"1 put, 127 comparisons", 127, func(s *side, p string) clientv3.Txn {
			return s.kv.Txn(w.ctx).If(version(127, p)...).Then(put(p + "000"))
		}, false, false},
		{"128 puts, 1 comparison", 3, func(s *side, p string) clientv3.Txn {
			return s.kv.Txn(w.ctx).If(yes(p)).Then(many(128, put, p)...)
		}, true, false},
		{"1 put, 128 comparisons", 3, func(s *side, p string) clientv3.Txn {
			return s.kv.Txn(w.ctx).If(version(128, p)...).Then(put(p + "000"))
		}, true, false},
		{"129 comparisons", 3, func(s *side, p string) clientv3.Txn {
			return s.kv.Txn(w.ctx).If(version(129, p)...).Then(put(p + "000"))
		}, false, false},
		{"63 + 64 nested", 127, func(s *side, p string) clientv3.Txn {
			return s.kv.Txn(w.ctx).If(yes(p)).Then(append(many(62, get, p), nested(version(2, p), many(64, put, p)...))...)
		}, false, true},
		{"64 + 64 nested", 127, func(s *side, p string) clientv3.Txn {
			return s.kv.Txn(w.ctx).If(yes(p)).Then(append(many(63, get, p), nested(version(2, p), many(64, put, p)...))...)
		}, true, false},
		{"64 + 65 nested", 3, func(s *side, p string) clientv3.Txn {
			return s.kv.Txn(w.ctx).If(yes(p)).Then(append(many(63, get, p), nested(version(2, p), many(65, put, p)...))...)
		}, false, false},
	} {
		for name, owners := range map[string][]string{
			isUnclaimed: {isUnclaimed}, isOwned: {isOwned}, "mixed": {isForeign, isOwned, isUnclaimed},
		} {
			if name != isOwned && !c.every {
				continue
			}
			w.run(c.name+" "+name, func(w *world) {
				prefix := strings.ReplaceAll(c.name+name, " ", "_") + "/"
				w.bringAll(prefix, c.n, owners)
				if c.large {
					rev := w.revision()
					var err error
					n := sending(w.sent, func() { _, err = c.txn(w.leased, prefix).Commit() })
					if !errors.Is(err, leasing.ErrTxnTooLarge) || !strings.Contains(err.Error(), "128") || n != 0 || w.revision() != rev {
						w.Errorf("%d requests, the store moved by %d, error: %v", n, w.revision()-rev, err)
					}
				} else {
					w.same("commit", func(s *side) (any, error) { return c.txn(s, prefix).Commit() })
				}
				for i := range c.n {
					if i%40 < 2 || i == c.n-1 {
						w.agree("then", numbered(prefix, i))
					}
				}
			})
		}
	}
}

// Whatever a transaction is made of, and in whatever state its keys are.
func TestTransactionsAnswerAsThePlainClient(t *testing.T) {
	w := newWorld(t)
	prev, count := clientv3.WithPrevKV(), clientv3.WithCountOnly()
	type (
		op  = clientv3.Op
		ops = []clientv3.Op
		cmp = []clientv3.Cmp
	)
	put := func(key, v string) op { return clientv3.OpPut(key, v, prev) }
	get := func(key string) op { return clientv3.OpGet(key) }
	del := func(key string) op { return clientv3.OpDelete(key, prev) }
	all := func(key string) op { return clientv3.OpDelete(key, clientv3.WithPrefix(), prev) }
	is := func(key, v string) cmp { return cmp{clientv3.Compare(clientv3.Value(key), "=", v)} }
	// All states of one key, and all of the other, the ones that are answered
	// from memory among them.
	pairs := [][2]state{
		{{isOwned, true}, {isOwned, true}},
		{{isOwned, false}, {isUnclaimed, true}},
		{{isForeign, true}, {isOwned, false}},
		{{isForeign, false}, {isForeign, true}},
		{{isUnclaimed, true}, {isForeign, false}},
		{{isUnclaimed, false}, {isUnclaimed, false}},
	}
	for i, txn := range []func(a, b string) (cmp, ops, ops){
		func(_, _ string) (cmp, ops, ops) { return nil, nil, nil },
		func(a, _ string) (cmp, ops, ops) { return is(a, "1"), nil, ops{put(a, "2")} },
		func(a, b string) (cmp, ops, ops) {
			return nil, ops{get(a), put(a, "2"), get(a), put(b, "3"), get(b)}, nil
		},
		func(a, b string) (cmp, ops, ops) { return nil, ops{del(a), get(a), put(b, "2"), del(b + "x")}, nil },
		func(a, b string) (cmp, ops, ops) { return nil, ops{put(a, "2")}, ops{put(b, "3")} },
		func(a, b string) (cmp, ops, ops) {
			return is(a, "1"), ops{put(a, "2"), get(b)}, ops{put(b, "3"), get(a)}
		},
		func(a, b string) (cmp, ops, ops) {
			return is(b, "1"), ops{del(a), put(b, "2")}, ops{put(a, "3"), del(b)}
		},
		func(a, b string) (cmp, ops, ops) {
			return is(a, "1"), ops{clientv3.OpTxn(is(b, "1"), ops{put(a, "2"), get(a)}, ops{del(a), get(b)}), get(a)},
				ops{clientv3.OpTxn(is(b, "1"), ops{put(b, "2"), get(a)}, ops{put(a, "4"), put(b, "5")}), get(b)}
		},
		// Both nested transactions are decided before either is applied.
		func(a, b string) (cmp, ops, ops) {
			return nil, ops{clientv3.OpTxn(is(a, "1"), ops{put(a, "2")}, nil), clientv3.OpTxn(is(a, "2"), ops{put(b, "2")}, ops{put(b, "3")}), get(a)}, nil
		},
		func(a, b string) (cmp, ops, ops) {
			return nil, ops{clientv3.OpTxn(nil, ops{clientv3.OpTxn(is(b, "1"), ops{put(a, "2"), clientv3.OpTxn(nil, ops{get(a), get(b)}, nil)}, ops{get(a)})}, nil), get(a)}, nil
		},
		// Read-only, then ranges.
		func(a, b string) (cmp, ops, ops) {
			return is(a, "1"), ops{get(b), clientv3.OpTxn(is(b, "1"), ops{get(a)}, ops{get(b)}), get(b)}, ops{get(a)}
		},
		func(a, b string) (cmp, ops, ops) {
			return is(a, "1"), ops{get(a), clientv3.OpGet(a, clientv3.WithPrefix())}, ops{clientv3.OpGet(b, clientv3.WithPrefix(), count)}
		},
		func(a, b string) (cmp, ops, ops) {
			return nil, ops{put(a+"y", "2"), get(a), all(a + "x"), clientv3.OpGet(a, clientv3.WithPrefix(), count), put(b, "3")}, nil
		},
		func(a, b string) (cmp, ops, ops) {
			return is(b, "1"), ops{all(a), all(b), get(a)}, ops{all(b), put(a, "3"), clientv3.OpGet(b, count)}
		},
		func(a, b string) (cmp, ops, ops) {
			return is(a, "1"), ops{all(a), all(a), del(a), get(b)}, ops{clientv3.OpTxn(nil, ops{all(a), all(b)}, nil)}
		},
		// The same key twice is one too many, unless it is in branches that exclude each other.
		func(a, _ string) (cmp, ops, ops) { return nil, ops{put(a, "2"), put(a, "3")}, nil },
		func(a, _ string) (cmp, ops, ops) { return nil, ops{put(a, "2"), all(a)}, nil },
		func(a, _ string) (cmp, ops, ops) { return nil, ops{all(a), put(a, "2")}, nil },
		func(a, _ string) (cmp, ops, ops) { return nil, ops{put(a, "2"), del(a)}, nil },
		func(a, _ string) (cmp, ops, ops) { return is(a, "1"), ops{put(a, "2")}, ops{put(a, "3"), put(a, "4")} },
		func(a, b string) (cmp, ops, ops) {
			return nil, ops{clientv3.OpTxn(is(a, "1"), ops{put(b, "2")}, nil), clientv3.OpTxn(is(a, "2"), ops{put(b, "3")}, nil)}, nil
		},
		func(a, b string) (cmp, ops, ops) {
			return nil, ops{clientv3.OpTxn(is(a, "1"), ops{put(b, "2")}, ops{put(b, "3")}), put(a, "2")}, nil
		},
		func(a, b string) (cmp, ops, ops) {
			return nil, ops{clientv3.OpTxn(is(a, "1"), ops{put(b, "2")}, ops{all(b)}), get(a)}, nil
		},
		func(a, b string) (cmp, ops, ops) {
			return nil, ops{clientv3.OpTxn(is(a, "1"), ops{all(b)}, nil), clientv3.OpTxn(is(a, "2"), ops{put(b, "3")}, nil)}, nil
		},
		// Half of it would be fine, but all of it is refused or none.
		func(a, b string) (cmp, ops, ops) {
			return nil, ops{put(a, "2"), clientv3.OpPut(b, "", clientv3.WithIgnoreValue())}, nil
		},
		func(a, b string) (cmp, ops, ops) {
			return is(a, "1"), ops{put(a, "2"), clientv3.OpPut(b, "3", clientv3.WithIgnoreLease())}, ops{put(b, "3")}
		},
	} {
		w.run(fmt.Sprint("txn ", i), func(w *world) {
			for _, c := range pairs {
				what := fmt.Sprintf("%v, %v", c[0], c[1])
				a, b := fmt.Sprintf("%d/%s/a", i, what), fmt.Sprintf("%d/%s/b", i, what)
				w.bring(a, c[0])
				w.bring(b, c[1])
				cmps, then, els := txn(a, b)
				w.same(what, func(s *side) (any, error) {
					if c[0].present {
						return s.kv.Txn(w.ctx).If(cmps...).Then(then...).Else(els...).Commit()
					}
					return s.kv.Do(w.ctx, clientv3.OpTxn(cmps, then, els))
				})
				w.agree(what, a)
				w.agree(what, b)
			}
		})
	}
}
