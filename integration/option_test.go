package integration_test

import (
	"context"
	"fmt"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Every option of a put does what etcd does, and what is read then is what
// etcd holds: its leases, and the fields that a put has left as they were.
func TestPutOptionsAgreeWithTheServer(t *testing.T) {
	w := newWorld(t)
	one, two := w.grant(600), w.grant(600)
	type put func(s *side, key string) clientv3.Op
	lease := func(i int) put {
		return func(s *side, key string) clientv3.Op {
			return clientv3.OpPut(key, "l", clientv3.WithLease(s.leases[i]))
		}
	}
	plain := func(_ *side, key string) clientv3.Op { return clientv3.OpPut(key, "p", clientv3.WithPrevKV()) }
	sameValue := func(_ *side, key string) clientv3.Op {
		return clientv3.OpPut(key, "", clientv3.WithIgnoreValue(), clientv3.WithPrevKV())
	}
	sameLease := func(_ *side, key string) clientv3.Op {
		return clientv3.OpPut(key, "s", clientv3.WithIgnoreLease())
	}
	valueAlone := func(s *side, key string) clientv3.Op {
		return clientv3.OpPut(key, "", clientv3.WithIgnoreValue(), clientv3.WithLease(s.leases[two]))
	}
	touch := func(_ *side, key string) clientv3.Op {
		return clientv3.OpPut(key, "", clientv3.WithIgnoreValue(), clientv3.WithIgnoreLease())
	}
	for _, c := range []struct {
		name string
		puts []put
	}{
		{"lease", []put{lease(one), lease(two), plain}},
		{"value", []put{sameValue, lease(one), sameValue, sameValue}},
		{"ignored lease", []put{sameLease, lease(one), sameLease, plain, sameLease}},
		{"value and lease", []put{valueAlone, plain, valueAlone}},
		{"touch", []put{touch, lease(one), touch}},
	} {
		for _, how := range []struct {
			name string
			do   func(s *side, op clientv3.Op, key string) (any, error)
		}{
			{"alone", func(s *side, op clientv3.Op, _ string) (any, error) { return s.kv.Do(w.ctx, op) }},
			{"with a get", func(s *side, op clientv3.Op, key string) (any, error) {
				return s.kv.Txn(w.ctx).Then(op, clientv3.OpGet(key)).Commit()
			}},
			{"in an else", func(s *side, op clientv3.Op, key string) (any, error) {
				nested := clientv3.OpTxn(nil, []clientv3.Op{op}, nil)
				return s.kv.Txn(w.ctx).If(clientv3.Compare(clientv3.Version(key), ">", 99)).Then(clientv3.OpPut(key, "no")).
					Else(nested, clientv3.OpGet(key)).Commit()
			}},
		} {
			w.run(c.name+" "+how.name, func(w *world) {
				w.each(c.name+how.name, func(key string, st state) {
					for i, p := range c.puts {
						what := fmt.Sprintf("%v, put %d", st, i)
						w.same(what, func(s *side) (any, error) { return how.do(s, p(s, key), key) })
						w.same(what+", read", func(s *side) (any, error) { return s.kv.Get(w.ctx, key) })
					}
					w.agree(st.String(), key)
				})
			})
		}
	}
}

// A key with a lease of its own can vanish without anybody's consent, so it is
// never read from memory; when it has vanished, it has for all.
func TestKeysVanishWithTheirOwnLease(t *testing.T) {
	w := newWorld(t)
	for _, name := range []string{"expired", "revoked"} {
		w.run(name, func(w *world) {
			keys := w.family(name)
			lease := w.grant(2)
			kept, stop := context.WithCancel(w.ctx)
			defer stop()
			for _, s := range []*side{w.leased, w.plain} {
				_, err := s.cl.KeepAlive(kept, s.leases[lease])
				w.must(err)
			}
			// Either side's keys vanish in one revision.
			var gone []clientv3.WatchChan
			for _, s := range []*side{w.leased, w.plain} {
				gone = append(gone, s.cl.Watch(w.ctx, name, clientv3.WithPrefix(), clientv3.WithFilterPut()))
			}
			for i, key := range keys {
				w.same("put", func(s *side) (any, error) {
					put := clientv3.OpPut(key, "v", clientv3.WithLease(s.leases[lease]))
					if i%2 == 0 {
						return s.kv.Do(w.ctx, put)
					}
					return s.kv.Txn(w.ctx).If(clientv3.Compare(clientv3.Version(key), "<", 9)).Then(put).Commit()
				})
			}
			for _, key := range keys {
				for range 2 {
					n := sending(w.sent, func() {
						_, err := w.kv.Get(w.ctx, key)
						w.must(err)
					})
					if n == 0 {
						w.Errorf("%s, which has a lease, is read from memory", key)
					}
				}
			}
			stop()
			if name == "revoked" {
				for _, s := range []*side{w.leased, w.plain} {
					_, err := s.cl.Revoke(w.ctx, s.leases[lease])
					w.must(err)
				}
			}
			for i, s := range []*side{w.leased, w.plain} {
				resp, ok := <-gone[i]
				if !ok || resp.Err() != nil || len(resp.Events) != len(keys) {
					w.Fatalf("deleted: %v, %v", resp.Events, resp.Err())
				}
				s.revs = append(s.revs, resp.Events[0].Kv.ModRevision)
			}
			for _, key := range keys {
				w.agree("then", key)
				w.same("put", func(s *side) (any, error) { return s.kv.Put(w.ctx, key, "new", clientv3.WithPrevKV()) })
				w.agree("at last", key)
			}
		})
	}
}
