package integration_test

import (
	"fmt"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// A write of a key that nobody else owns is one request and one revision. If
// somebody owns it, there are two more revisions: he is asked, and he yields.
func TestWriteIsAppliedOnce(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct {
		name    string
		do      func(s *side, key string) (any, error)
		version func(before int64) int64
	}{
		{"put", func(s *side, key string) (any, error) { return s.kv.Put(w.ctx, key, "2") },
			func(before int64) int64 { return before + 1 }},
		{"delete", func(s *side, key string) (any, error) { return s.kv.Delete(w.ctx, key) },
			func(int64) int64 { return 0 }},
		{"txn", func(s *side, key string) (any, error) {
			return s.kv.Txn(w.ctx).If(clientv3.Compare(clientv3.Version(key), ">", -1)).Then(clientv3.OpPut(key, "2")).Commit()
		}, func(before int64) int64 { return before + 1 }},
	} {
		w.run(c.name, func(w *world) {
			w.each(c.name, func(key string, st state) {
				var before int64
				if st.present {
					before = 2
				}
				rev := w.revision()
				n := sending(w.sent, func() {
					w.same(fmt.Sprint(c.name, " ", st), func(s *side) (any, error) { return c.do(s, key) })
				})
				moved := int64(1)
				if before == 0 && c.version(before) == 0 {
					moved = 0 // there was nothing to delete
				}
				if st.owner == isForeign {
					moved += 2
				} else if n != 1 {
					w.Errorf("%v: %d requests", st, n)
				}
				if got := w.revision() - rev; got != moved {
					w.Errorf("%v: etcd moved on by %d revisions, not %d", st, got, moved)
				}
				resp, err := w.leased.cl.Get(w.ctx, key)
				w.must(err)
				if got := (*pb.RangeResponse)(resp).GetKvs(); len(got) == 0 && c.version(before) != 0 || len(got) == 1 && got[0].Version != c.version(before) {
					w.Errorf("%v: version %d became %v", st, before, got)
				}
				w.agree(fmt.Sprint("after ", c.name, " ", st), key)
			})
		})
	}
}

// Deleted, PrevKv and PrevKvs are etcd's, and so is all that is read after.
func TestWritesAnswerAsThePlainClient(t *testing.T) {
	w := newWorld(t)
	prev := clientv3.WithPrevKV()
	for _, c := range []struct {
		name string
		do   func(s *side, key string) (any, error)
	}{
		{"put", func(s *side, k string) (any, error) { return s.kv.Put(w.ctx, k, "v") }},
		{"put nothing", func(s *side, k string) (any, error) { return s.kv.Put(w.ctx, k, "") }},
		{"put, prev", func(s *side, k string) (any, error) { return s.kv.Put(w.ctx, k, "v", prev) }},
		{"do put, prev", func(s *side, k string) (any, error) { return s.kv.Do(w.ctx, clientv3.OpPut(k, "v", prev)) }},
		{"delete", func(s *side, k string) (any, error) { return s.kv.Delete(w.ctx, k) }},
		{"delete, prev", func(s *side, k string) (any, error) { return s.kv.Delete(w.ctx, k, prev) }},
		{"do delete, prev", func(s *side, k string) (any, error) { return s.kv.Do(w.ctx, clientv3.OpDelete(k, prev)) }},
		{"delete prefix", func(s *side, k string) (any, error) { return s.kv.Delete(w.ctx, k, clientv3.WithPrefix()) }},
		{"delete range, prev", func(s *side, k string) (any, error) {
			return s.kv.Delete(w.ctx, k, clientv3.WithRange(k+"\x00"), prev)
		}},
		{"delete empty range", func(s *side, k string) (any, error) {
			return s.kv.Delete(w.ctx, k, clientv3.WithRange(k[:1]), prev)
		}},
		{"txn put", func(s *side, k string) (any, error) {
			return s.kv.Txn(w.ctx).Then(clientv3.OpPut(k, "v", prev), clientv3.OpGet(k)).Commit()
		}},
		{"txn delete", func(s *side, k string) (any, error) {
			return s.kv.Txn(w.ctx).Then(clientv3.OpGet(k), clientv3.OpDelete(k, prev), clientv3.OpGet(k)).Commit()
		}},
		{"txn delete range", func(s *side, k string) (any, error) {
			return s.kv.Txn(w.ctx).Then(clientv3.OpDelete(k, clientv3.WithPrefix(), prev), clientv3.OpGet(k)).Commit()
		}},
		{"txn else", func(s *side, k string) (any, error) {
			return s.kv.Txn(w.ctx).If(clientv3.Compare(clientv3.Value(k), "=", "1")).
				Then(clientv3.OpPut(k, "v", prev)).Else(clientv3.OpDelete(k, prev), clientv3.OpPut(k+"+", "w", prev)).Commit()
		}},
	} {
		w.run(c.name, func(w *world) {
			w.each(c.name, func(key string, st state) {
				for i := range 2 { // the second time it is ours, or resting
					what := fmt.Sprintf("%v, time %d", st, i+1)
					w.same(what, func(s *side) (any, error) { return c.do(s, key) })
					w.agree(what, key)
					w.agree(what, key+"+")
				}
			})
		})
	}

	// A write that somebody else would have to be asked for leaves what is ours in memory.
	w.run("owned keys stay owned", func(w *world) {
		w.bring("stay", state{isOwned, false})
		for i, do := range []call{
			func(s *side) (any, error) { return s.kv.Put(w.ctx, "stay", "1") },
			func(s *side) (any, error) { return s.kv.Txn(w.ctx).Then(clientv3.OpPut("stay", "2")).Commit() },
			func(s *side) (any, error) { return s.kv.Delete(w.ctx, "stay") },
		} {
			w.same("write", do)
			if n := sending(w.sent, func() {
				w.same("read", func(s *side) (any, error) { return s.kv.Get(w.ctx, "stay") })
			}); n != 0 {
				w.Errorf("the read after write %d has sent %d requests", i, n)
			}
		}
	})
}
