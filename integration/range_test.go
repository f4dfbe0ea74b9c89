package integration_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// strewn brings about keys all over the key space, on both sides of the claims
// and with bytes that are no text, with every owner; n makes them new ones.
func (w *world) strewn(n int) map[string]state {
	w.Helper()
	keys := make(map[string]state)
	for b, base := range []string{"\x00", "leasing.", "leasing0", "m", "\xff", "\xff\xff"} {
		for i, owner := range []string{isOwned, isForeign, isUnclaimed} {
			key, st := fmt.Sprintf("%s%02d-%d", base, n, i), state{owner, (n+b+i)%3 != 0}
			w.bring(key, st)
			keys[key] = st
		}
	}
	return keys
}

// claims returns the grants of all claims, by key.
func (w *world) claims() map[string]int64 {
	w.Helper()
	resp, err := w.leased.cl.Get(w.ctx, "leasing/", clientv3.WithPrefix())
	w.must(err)
	grants := make(map[string]int64)
	for _, kv := range resp.Kvs {
		grants[strings.TrimPrefix(string(kv.Key), "leasing/")] = kv.CreateRevision
	}
	return grants
}

// givenUp returns how many keys of ours were deleted in a range, and so given up,
// but are still claimed.
func (w *world) givenUp(keys map[string]state, spared func(string) bool, before, after map[string]int64) (n int) {
	for key, st := range keys {
		if grant, ok := after[key]; st.owner == isOwned && !spared(key) && ok && grant == before[key] {
			n++
		}
	}
	return n
}

// A range is deleted as etcd does it, whoever owns the keys in it. Claims are
// not in any range: those of keys that are not deleted stay, and so do their
// owners' reads.
func TestRangeDeletesReachForeignKeys(t *testing.T) {
	w := newWorld(t)
	prefix, fromKey, prev := clientv3.WithPrefix(), clientv3.WithFromKey(), clientv3.WithPrevKV()
	in := func(key string, opts ...clientv3.OpOption) clientv3.Op {
		return clientv3.OpDelete(key, append(opts, prev)...)
	}
	for n, c := range []struct {
		name   string
		op     clientv3.Op
		spared func(key string) bool
	}{
		{"prefix", in("m", prefix), func(k string) bool { return k[0] != 'm' }},
		{"prefix ff", in("\xff", prefix), func(k string) bool { return k[0] != '\xff' }},
		{"prefix ffff", in("\xff\xff", prefix), func(k string) bool { return k[0] != '\xff' || k[1] != '\xff' }},
		{"prefix 00", in("\x00", prefix), func(k string) bool { return k[0] != 0 }},
		{"range", in("a\x00", clientv3.WithRange("leasing/a")), func(k string) bool { return k < "a" || k > "leasing/" }},
		{"range from within the claims", in("leasing/m", clientv3.WithRange("\xc4")), func(k string) bool { return k < "leasing/" || k[0] == '\xff' }},
		{"claims alone", in("leasing/", prefix), func(string) bool { return true }},
		{"range that ends before it begins", in("z", clientv3.WithRange("a")), func(string) bool { return true }},
		{"range around the claims", in("leasing", prefix), func(k string) bool { return !strings.HasPrefix(k, "leasing") }},
		{"from key", in("m", fromKey), func(k string) bool { return k < "m" }},
		{"from key ff", in("\xff", fromKey), func(k string) bool { return k < "\xff" }},
		{"from key before the claims", in("leasing", fromKey), func(k string) bool { return k < "leasing" }},
		{"from key within the claims", in("leasing/m", fromKey), func(k string) bool { return k < "leasing/" }},
		{"all from key", in("", fromKey), func(string) bool { return false }},
		{"all by prefix", in("", prefix), func(string) bool { return false }},
	} {
		for i, how := range []struct {
			name string
			do   call
		}{
			{"alone", func(s *side) (any, error) { return s.kv.Do(w.ctx, c.op) }},
			{"in a transaction", func(s *side) (any, error) {
				nested := clientv3.OpTxn([]clientv3.Cmp{clientv3.Compare(clientv3.Version("\xfe"), "=", 0)},
					[]clientv3.Op{c.op, clientv3.OpGet("m")}, nil)
				return s.kv.Txn(w.ctx).Then(clientv3.OpGet("\xff"), nested).Commit()
			}},
		} {
			if i > 0 && n%2 > 0 {
				continue // half of them are enough, the others are much the same
			}
			w.run(c.name+" "+how.name, func(w *world) {
				keys := w.strewn(2*n + i)
				before := w.claims()
				w.same("delete", how.do)
				after := w.claims()
				for w.givenUp(keys, c.spared, before, after) > 0 && w.ctx.Err() == nil {
					time.Sleep(time.Millisecond) // or their yields would be counted below
					after = w.claims()
				}
				for key, st := range keys {
					if c.spared(key) && after[key] != before[key] {
						w.Errorf("the claim of %q, which was not deleted, was %d and is %d", key, before[key], after[key])
					}
					if c.spared(key) && st.owner == isForeign {
						if n := sending(w.otherSent, func() { _, _ = w.other.Get(w.ctx, key) }); n != 0 {
							w.Errorf("the owner of %q, which was not deleted, reads it with %d requests", key, n)
						}
					}
					n := sending(w.sent, func() {
						w.same(fmt.Sprintf("%v %q after", st, key), func(s *side) (any, error) { return s.kv.Get(w.ctx, key) })
					})
					if resp, err := w.other.Get(w.ctx, key); err != nil || (resp.Count > 0) != (c.spared(key) && st.present) {
						w.Errorf("%v %q after, for the other KV: %v, %v", st, key, resp, err)
					}
					if c.spared(key) && st.owner == isOwned && n != 0 {
						w.Errorf("%q is ours and was not deleted; its read has sent %d requests", key, n)
					}
				}
			})
		}
	}
	w.agree("in the end", "m")
}

// Keys and values are bytes, not text.
func TestBinaryKeysAndValues(t *testing.T) {
	w := newWorld(t)
	for n, key := range []string{
		"\x00", "\x00\x00", "\x00\xff", "\xff", "\xff\xff", "\xff\x00", "a", "a\x00", "a\x00\x00", "a\xff", "\xc3\x28", "\xed\xa0\x80", "é", "leasing/"[:7] + "\x2e\xff",
	} {
		st := states()[n%len(states())]
		w.run(fmt.Sprintf("%q", key), func(w *world) {
			w.bring(key, st)
			value := "\x00\xff\xc3\x28" + key
			for i, do := range []call{
				func(s *side) (any, error) { return s.kv.Put(w.ctx, key, value, clientv3.WithPrevKV()) },
				func(s *side) (any, error) {
					return s.kv.Txn(w.ctx).If(clientv3.Compare(clientv3.Value(key), "=", value)).
						Then(clientv3.OpGet(key), clientv3.OpPut(key, "\x00")).Else(clientv3.OpDelete(key)).Commit()
				},
				func(s *side) (any, error) {
					return s.kv.Txn(w.ctx).If(clientv3.Compare(clientv3.Value(key), ">", "")).Then(clientv3.OpGet(key)).Commit()
				},
				func(s *side) (any, error) {
					return s.kv.Delete(w.ctx, key, clientv3.WithRange(key+"\x00"), clientv3.WithPrevKV())
				},
				func(s *side) (any, error) { return s.kv.Put(w.ctx, key, "") },
				func(s *side) (any, error) { return s.kv.Delete(w.ctx, key, clientv3.WithPrevKV()) },
			} {
				what := fmt.Sprintf("%v, step %d", st, i)
				w.same(what, do)
				w.agree(what, key)
			}
		})
	}
}
