package integration_test

import (
	"fmt"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// operand makes a comparison with one operator, on either side.
type operand struct {
	name string
	cmp  func(s *side, key, operator string) clientv3.Cmp
}

// operands returns what all five targets can be compared with: less than, as
// much as and more than what they are. at are indices of revisions of the
// side, lease is one of its leases.
func operands(at []int, lease int) (all []operand) {
	for _, v := range []string{"", "0", "1", "2"} {
		all = append(all, operand{"value " + v, func(_ *side, key, o string) clientv3.Cmp {
			return clientv3.Compare(clientv3.Value(key), o, v)
		}})
	}
	for v := range 4 {
		all = append(all, operand{fmt.Sprint("version ", v), func(_ *side, key, o string) clientv3.Cmp {
			return clientv3.Compare(clientv3.Version(key), o, v)
		}})
	}
	for _, i := range append([]int{-1}, at...) {
		rev := func(s *side) int64 {
			if i < 0 {
				return 0
			}
			return s.revs[i]
		}
		all = append(all, operand{fmt.Sprint("create ", i), func(s *side, key, o string) clientv3.Cmp {
			return clientv3.Compare(clientv3.CreateRevision(key), o, rev(s))
		}}, operand{fmt.Sprint("mod ", i), func(s *side, key, o string) clientv3.Cmp {
			return clientv3.Compare(clientv3.ModRevision(key), o, rev(s))
		}})
	}
	for _, v := range []int64{-1, 0} {
		all = append(all, operand{fmt.Sprint("lease ", v), func(_ *side, key, o string) clientv3.Cmp {
			return clientv3.Compare(clientv3.LeaseValue(key), o, v)
		}})
	}
	for _, d := range []clientv3.LeaseID{-1, 0, 1} {
		all = append(all, operand{fmt.Sprint("the lease, plus ", d), func(s *side, key, o string) clientv3.Cmp {
			return clientv3.Compare(clientv3.LeaseValue(key), o, s.leases[lease]+d)
		}})
	}
	return all
}

// All five targets, all four operators, less, equal and more: who owns a key
// does not matter, nor whether the comparison is alone, is one of a nested
// transaction, or decides about a write.
func TestComparisonsDecideAsTheServer(t *testing.T) {
	w := newWorld(t)
	lease := w.grant(600)
	compare := func(w *world, what, key string, get clientv3.Op, all []operand, alone bool, change func(clientv3.Cmp) clientv3.Cmp) {
		for _, o := range []string{"=", "!=", "<", ">"} {
			var nested []func(*side) clientv3.Op
			for _, c := range all {
				cmp := func(s *side) clientv3.Cmp { return change(c.cmp(s, key, o)) }
				nested = append(nested, func(s *side) clientv3.Op {
					return clientv3.OpTxn([]clientv3.Cmp{cmp(s), cmp(s)}, []clientv3.Op{get}, nil)
				})
				if !alone {
					continue
				}
				w.same(fmt.Sprintf("%s %s %s", what, o, c.name), func(s *side) (any, error) {
					return s.kv.Txn(w.ctx).If(cmp(s)).Then(get).Else(get, get).Commit()
				})
			}
			ops := func(s *side) (ops []clientv3.Op) {
				for _, n := range nested {
					ops = append(ops, n(s))
				}
				return ops
			}
			w.same(fmt.Sprintf("%s %s, nested", what, o), func(s *side) (any, error) {
				return s.kv.Txn(w.ctx).Then(ops(s)...).Commit()
			})
			w.same(fmt.Sprintf("%s %s, nested in a write", what, o), func(s *side) (any, error) {
				return s.kv.Txn(w.ctx).Then(append(ops(s), clientv3.OpPut("written", o))...).Commit()
			})
		}
	}
	as := func(c clientv3.Cmp) clientv3.Cmp { return c }
	for _, st := range states() {
		w.run(st.String(), func(w *world) {
			key := "cmp/" + st.String()
			w.bring(key, st)
			last := len(w.plain.revs) - 1
			n := sending(w.sent, func() {
				compare(w, st.String(), key, clientv3.OpGet(key), operands([]int{last - 1, last}, lease), true, as)
			})
			if st.owner == isOwned && n != 4 {
				w.Errorf("%d requests, not those of the 4 writes alone", n)
			}
			// A key that the transaction writes itself.
			for _, c := range operands([]int{last}, lease) {
				w.same("write if "+c.name, func(s *side) (any, error) {
					return s.kv.Txn(w.ctx).If(c.cmp(s, key, "=")).Then(clientv3.OpPut(key, "1")).Else(clientv3.OpPut(key, "2"), clientv3.OpGet(key)).Commit()
				})
			}
			w.agree(st.String(), key)
		})
	}

	w.run("a key with a lease", func(w *world) {
		w.same("put", func(s *side) (any, error) {
			return s.kv.Put(w.ctx, "leased", "1", clientv3.WithLease(s.leases[lease]))
		})
		last := len(w.plain.revs) - 1
		compare(w, "leased", "leased", clientv3.OpGet("leased"), operands([]int{last - 1, last}, lease), true, as)
	})

	// A comparison of a range holds if it does for every key in it, or, if there is none, for zeros.
	w.run("ranges", func(w *world) {
		first := len(w.plain.revs) - 1
		w.family("several/")
		all := operands([]int{first, first + 1, len(w.plain.revs) - 1}, lease)
		get := clientv3.OpGet("several/owned-present")
		for name, end := range map[string]string{
			"several/": "several0", "several/owned-present": "several/owned-present\x00", "several/v": "several/w", "several/x": "several/a", "t": "\x00",
		} {
			compare(w, "range of "+name, name, get, all, false, func(c clientv3.Cmp) clientv3.Cmp { return c.WithRange(end) })
		}
		compare(w, "prefix", "several/f", get, all, false, clientv3.Cmp.WithPrefix)
	})

	// Of several comparisons all must hold; of none, none fails.
	w.run("several", func(w *world) {
		keys := w.family("all/")
		get := clientv3.OpGet(keys[0])
		holds := func(key string) clientv3.Cmp { return clientv3.Compare(clientv3.Version(key), "<", 9) }
		for fails := range len(keys) + 1 {
			w.same(fmt.Sprint("the one that fails is ", fails), func(s *side) (any, error) {
				var cmps []clientv3.Cmp
				for i, key := range keys {
					if i == fails {
						cmps = append(cmps, clientv3.Compare(clientv3.Version(key), ">", 9))
					} else {
						cmps = append(cmps, holds(key))
					}
				}
				return s.kv.Txn(w.ctx).If(cmps...).Then(get).Else(get, get).Commit()
			})
		}
		w.same("none", func(s *side) (any, error) { return s.kv.Txn(w.ctx).If().Then(get).Else(get, get).Commit() })
	})
}
