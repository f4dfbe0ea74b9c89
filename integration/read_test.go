package integration_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-leasing/leasing/integration/etcdtest"
	"github.com/etcd-leasing/leasing/integration/internal/reply"
)

// getCase is one combination of the options of a get. Revisions are those of a
// side, so the options are made for either.
type getCase struct {
	name  string
	local bool // a read of an owned key is served from memory
	opts  func(*side) []clientv3.OpOption
}

func fixed(name string, local bool, opts ...clientv3.OpOption) getCase {
	return getCase{name, local, func(*side) []clientv3.OpOption { return opts }}
}

// getCases returns the combinations. Revisions in them are around first and
// last, which are indices of a side's revisions.
func getCases(first, last int) []getCase {
	all := []getCase{
		fixed("plain", true),
		fixed("keys only", true, clientv3.WithKeysOnly()),
		fixed("count only", true, clientv3.WithCountOnly()),
		fixed("limit 1", true, clientv3.WithLimit(1)),
		fixed("limit 2", true, clientv3.WithLimit(2)),
		fixed("limit -1", true, clientv3.WithLimit(-1)),
		fixed("serializable", true, clientv3.WithSerializable()),
		fixed("first key", false, clientv3.WithFirstKey()...),
		fixed("last rev", false, clientv3.WithLastRev()...),
		fixed("limited keys", true, clientv3.WithLimit(1), clientv3.WithKeysOnly()),
		fixed("counted keys", true, clientv3.WithCountOnly(), clientv3.WithKeysOnly()),
		fixed("future", false, clientv3.WithRev(1<<40)),
		fixed("negative rev", false, clientv3.WithRev(-1)),
	}
	for target := clientv3.SortByKey; target <= clientv3.SortByValue; target++ {
		for order := clientv3.SortNone; order <= clientv3.SortDescend; order++ {
			all = append(all, fixed(fmt.Sprintf("sort %v %v", target, order), true, clientv3.WithSort(target, order)))
			all = append(all, fixed(fmt.Sprintf("sort %v %v, limit", target, order), true, clientv3.WithSort(target, order), clientv3.WithLimit(1)))
		}
	}
	for at := first - 1; at <= last; at += max(1, (last-first)/4) {
		for name, opt := range map[string]func(int64) clientv3.OpOption{
			"rev": clientv3.WithRev, "min mod": clientv3.WithMinModRev, "max mod": clientv3.WithMaxModRev,
			"min create": clientv3.WithMinCreateRev, "max create": clientv3.WithMaxCreateRev,
		} {
			all = append(all, getCase{fmt.Sprintf("%s %d", name, at), name != "rev",
				func(s *side) []clientv3.OpOption { return []clientv3.OpOption{opt(s.revs[at])} }})
			all = append(all, getCase{fmt.Sprintf("%s %d, count only", name, at), name != "rev",
				func(s *side) []clientv3.OpOption {
					return []clientv3.OpOption{opt(s.revs[at]), clientv3.WithCountOnly()}
				}})
		}
	}
	return all
}

// Whatever the options and whoever owns the key, Get, Do and a transaction
// answer as the plain client does. Reads of owned keys send nothing, unless
// they ask for history.
func TestGetOptionsAnswerAsThePlainClient(t *testing.T) {
	w := newWorld(t)
	for _, st := range states() {
		w.run(st.String(), func(w *world) {
			key := "point/" + st.String()
			first := len(w.plain.revs)
			w.bring(key, st)
			for _, c := range getCases(first, len(w.plain.revs)-1) {
				for how, do := range map[string]call{
					"get": func(s *side) (any, error) { return s.kv.Get(w.ctx, key, c.opts(s)...) },
					"do":  func(s *side) (any, error) { return s.kv.Do(w.ctx, clientv3.OpGet(key, c.opts(s)...)) },
					"txn": func(s *side) (any, error) {
						get := clientv3.OpGet(key, c.opts(s)...)
						return s.kv.Txn(w.ctx).If(clientv3.Compare(clientv3.Version(key), ">", 7)).Else(get, get).Commit()
					},
				} {
					n := sending(w.sent, func() { w.same(c.name+", "+how, do) })
					if local := c.local && st.owner == isOwned; local && n != 0 || !local && st.owner != isUnclaimed && n != 1 {
						w.Errorf("%s, %s: %d requests", c.name, how, n)
					}
				}
			}
		})
	}

	w.run("ranges", func(w *world) {
		first := len(w.plain.revs)
		w.family("range/")
		w.family("range\xff")
		for _, c := range getCases(first, len(w.plain.revs)-1) {
			for name, key := range map[string]struct {
				begin string
				opt   clientv3.OpOption
			}{
				"prefix":   {"range/", clientv3.WithPrefix()},
				"range":    {"range/g", clientv3.WithRange("range\xffp")},
				"nothing":  {"range/z", clientv3.WithPrefix()},
				"from key": {"range/g", clientv3.WithFromKey()},
				"backward": {"range/z", clientv3.WithRange("range/a")},
			} {
				if strings.HasPrefix(c.name, "first") || strings.HasPrefix(c.name, "last") {
					continue // they come with a sort of their own
				}
				opts := func(s *side) []clientv3.OpOption { return append([]clientv3.OpOption{key.opt}, c.opts(s)...) }
				w.same(name+", "+c.name, func(s *side) (any, error) { return s.kv.Get(w.ctx, key.begin, opts(s)...) })
				if name != "prefix" {
					continue
				}
				w.same(name+" in a transaction, "+c.name, func(s *side) (any, error) {
					return s.kv.Txn(w.ctx).Then(clientv3.OpGet(key.begin, opts(s)...)).Commit()
				})
			}
		}
	})
}

// Deleted keys do not count, not even in the same transaction.
func TestCountAfterDelete(t *testing.T) {
	w := newWorld(t)
	count, keys := clientv3.WithCountOnly(), clientv3.WithKeysOnly()
	for name, do := range map[string]func(s *side, key string) (any, error){
		"delete": func(s *side, key string) (any, error) { return s.kv.Delete(w.ctx, key) },
		"delete range": func(s *side, key string) (any, error) {
			return s.kv.Delete(w.ctx, key, clientv3.WithRange(key+"\x00"))
		},
		"txn": func(s *side, key string) (any, error) {
			return s.kv.Txn(w.ctx).Then(clientv3.OpGet(key, count), clientv3.OpDelete(key), clientv3.OpGet(key, count), clientv3.OpGet(key)).Commit()
		},
	} {
		w.run(name, func(w *world) {
			w.each(name, func(key string, st state) {
				w.same("delete", func(s *side) (any, error) { return do(s, key) })
				for i, opts := range [][]clientv3.OpOption{{count}, {keys}, nil, {count, clientv3.WithPrefix()}, {clientv3.WithPrefix()}, {count}} {
					w.same(fmt.Sprintf("%v, get %d", st, i), func(s *side) (any, error) { return s.kv.Get(w.ctx, key, opts...) })
				}
			})
		})
	}
}

// Every byte of an answer is the caller's: what is read next is not harmed,
// nor is what others got at the same time.
func TestRepliesMayBeScribbledOver(t *testing.T) {
	w := newWorld(t)
	prev := clientv3.WithPrevKV()
	for name, do := range map[string]func(s *side, key string) (any, error){
		"get":       func(s *side, key string) (any, error) { return s.kv.Get(w.ctx, key) },
		"keys only": func(s *side, key string) (any, error) { return s.kv.Get(w.ctx, key, clientv3.WithKeysOnly()) },
		"do":        func(s *side, key string) (any, error) { return s.kv.Do(w.ctx, clientv3.OpGet(key)) },
		"range":     func(s *side, key string) (any, error) { return s.kv.Get(w.ctx, key, clientv3.WithPrefix()) },
		"put":       func(s *side, key string) (any, error) { return s.kv.Put(w.ctx, key, "new", prev) },
		"delete":    func(s *side, key string) (any, error) { return s.kv.Delete(w.ctx, key, prev) },
		"read-only transaction": func(s *side, key string) (any, error) {
			get := clientv3.OpGet(key)
			nested := clientv3.OpTxn([]clientv3.Cmp{clientv3.Compare(clientv3.Version(key), "<", 9)}, []clientv3.Op{get, get}, nil)
			return s.kv.Txn(w.ctx).If(clientv3.Compare(clientv3.Version(key), ">", -1)).Then(get, nested, nested).Commit()
		},
		"transaction": func(s *side, key string) (any, error) {
			get := clientv3.OpGet(key)
			nested := clientv3.OpTxn(nil, []clientv3.Op{get, clientv3.OpDelete(key+"-", prev)}, nil)
			return s.kv.Txn(w.ctx).Then(get, clientv3.OpPut(key, "new", prev), get, nested).Commit()
		},
		"transaction with a comparison": func(s *side, key string) (any, error) {
			put := clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpPut(key, "new", prev), clientv3.OpGet(key)}, nil)
			return s.kv.Txn(w.ctx).If(clientv3.Compare(clientv3.Version(key), ">", -1)).Then(put, clientv3.OpGet(key)).Commit()
		},
	} {
		w.run(name, func(w *world) {
			w.each(name, func(key string, st state) {
				for i := range 3 { // the first may claim the key, and then it is in memory
					w.same(fmt.Sprintf("%v, time %d", st, i), func(s *side) (any, error) { return do(s, key) })
				}
				w.agree(st.String(), key)
			})
		})
	}
}

// Readers that share one claim do not share its answer.
func TestSharedClaimsGiveSeparateReplies(t *testing.T) {
	etcd := etcdtest.Start(t, etcdtest.QuickTicks())
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	g := newGate("first")
	var sent etcdtest.Counter
	kv := open(t, etcd.Client(0, sent.Option(), g.option()), longTTL)
	want, err := kv.Put(ctx, "k", "value")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	g.fill(func(key string) { _, _ = kv.Get(ctx, key) }, &wg)
	replies := make([]*clientv3.GetResponse, 5)
	sent.Reset()
	for i := range replies {
		waits := watch(ctx)
		wg.Go(func() {
			resp, err := kv.Get(waits, "k")
			if err != nil {
				t.Error(err)
			}
			replies[i] = resp
		})
		<-waits.waiting
	}
	close(g.release)
	wg.Wait()
	if n := sent.KV(); n != 1 {
		t.Errorf("%d requests for one claim", n)
	}
	for i := range replies {
		resp, err := kv.Get(ctx, "k")
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range append(replies[i:], resp) {
			if r == nil || len(r.Kvs) != 1 || string(r.Kvs[0].Key) != "k" || string(r.Kvs[0].Value) != "value" ||
				r.Kvs[0].ModRevision != want.Header.Revision || r.Header.ClusterId != want.Header.ClusterId {
				t.Errorf("after %d scribbles a reply is %v", i, r)
			}
		}
		scribble(reply.Message(replies[i]))
		scribble(reply.Message(resp))
	}
	if n := sent.KV(); n != 1 {
		t.Errorf("%d requests after one claim", n-1)
	}
}
