package integration_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-leasing/leasing/integration/internal/reply"
)

// Whatever a caller does and however it is answered, the header is complete,
// its revision is not below that of an earlier answer of the same KV, and not
// below that of any key in it. (See checkHeader, which every test here calls.)
func TestHeadersNeverRunBackwards(t *testing.T) {
	w := newWorld(t)
	w.bring("mine", state{isOwned, true})
	w.bring("theirs", state{isForeign, true})
	w.bring("nobodys", state{isUnclaimed, true})
	get := clientv3.OpGet
	yes := clientv3.Compare(clientv3.Version("mine"), ">", -1)
	for _, do := range []call{
		func(s *side) (any, error) { return s.kv.Get(w.ctx, "mine") },
		func(s *side) (any, error) { return s.kv.Get(w.ctx, "theirs") },
		func(s *side) (any, error) { return s.kv.Get(w.ctx, "mine") },
		func(s *side) (any, error) { return s.kv.Txn(w.ctx).Then(get("mine")).Commit() },
		func(s *side) (any, error) { return s.kv.Get(w.ctx, "m", clientv3.WithPrefix()) },
		func(s *side) (any, error) { return s.kv.Txn(w.ctx).If(yes).Then(get("mine"), get("theirs")).Commit() },
		func(s *side) (any, error) { return s.kv.Txn(w.ctx).If(yes).Then(get("mine")).Commit() },
		func(s *side) (any, error) { return s.kv.Put(w.ctx, "nobodys", "2") },
		func(s *side) (any, error) { return s.kv.Get(w.ctx, "mine") },
		func(s *side) (any, error) { return s.kv.Put(w.ctx, "mine", "2") },
		func(s *side) (any, error) { return s.kv.Txn(w.ctx).If(yes).Then(clientv3.OpDelete("nobodys")).Commit() },
		func(s *side) (any, error) { return s.kv.Get(w.ctx, "mine", clientv3.WithKeysOnly()) },
		func(s *side) (any, error) {
			return s.kv.Do(w.ctx, clientv3.OpTxn(nil, []clientv3.Op{get("mine"), clientv3.OpTxn(nil, []clientv3.Op{get("mine")}, nil)}, nil))
		},
		func(s *side) (any, error) { return s.kv.Delete(w.ctx, "nowhere") },
		func(s *side) (any, error) { return s.kv.Get(w.ctx, "mine", clientv3.WithCountOnly()) },
		func(s *side) (any, error) { return s.kv.Delete(w.ctx, "n", clientv3.WithPrefix()) },
		func(s *side) (any, error) { return s.kv.Txn(w.ctx).Then(get("mine")).Commit() },
		func(s *side) (any, error) { return s.kv.Put(w.ctx, "theirs", "2") },
		func(s *side) (any, error) { return s.kv.Get(w.ctx, "mine") },
	} {
		w.write("elsewhere", "v") // the store moves on without us
		w.same("step", do)
		w.same("a read from memory right after it", func(s *side) (any, error) { return s.kv.Get(w.ctx, "mine") })
	}

	w.run("compact", func(w *world) {
		resp, err := w.kv.Compact(w.ctx, w.leased.told)
		w.must(err)
		w.checkHeader("compact", (*pb.CompactionResponse)(resp))
		w.same("a read from memory after it", func(s *side) (any, error) { return s.kv.Get(w.ctx, "mine") })
	})
	w.run("stream", func(w *world) {
		stream, err := w.kv.GetStream(w.ctx, "m", clientv3.WithPrefix())
		w.must(err)
		var h *pb.ResponseHeader
		for r := range stream {
			w.must(r.Err())
			if r.RangeResponse.GetHeader() != nil {
				h = r.RangeResponse.Header
			}
		}
		w.checkHeader("stream", &pb.RangeResponse{Header: h})
		w.same("a read from memory after it", func(s *side) (any, error) { return s.kv.Get(w.ctx, "mine") })
	})
}

// The same for callers that do not know of each other: an answer is not older
// than any that had been given when its call began.
func TestHeadersNeverRunBackwardsForConcurrentCallers(t *testing.T) {
	w := newWorld(t)
	keys := []string{"a", "b", "c"}
	for _, key := range keys {
		w.bring(key, state{isOwned, true})
	}
	var told atomic.Int64
	ctx, cancel := context.WithCancel(w.ctx)
	var callers, others sync.WaitGroup
	defer others.Wait()
	defer cancel()
	others.Go(func() { // the other KV wants one of the keys, now and then, and moves the store
		for i := 0; ctx.Err() == nil; i++ {
			key := "elsewhere"
			if i%20 == 0 {
				key = "c"
			}
			if _, err := w.other.Put(ctx, key, fmt.Sprint(i)); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
		}
	})
	for c := range 6 {
		callers.Go(func() {
			for i := range 60 {
				key, next := keys[(c+i)%len(keys)], keys[i%len(keys)]
				floor := told.Load()
				var resp any
				var err error
				switch (c + i) % 10 {
				case 0:
					resp, err = w.kv.Put(ctx, key, fmt.Sprint(c, i))
				case 1:
					resp, err = w.kv.Txn(ctx).If(clientv3.Compare(clientv3.Version(next), ">", 3)).
						Then(clientv3.OpPut(key, "t"), clientv3.OpGet(next)).Else(clientv3.OpGet(key), clientv3.OpDelete(next)).Commit()
				case 2, 3:
					resp, err = w.kv.Txn(ctx).If(clientv3.Compare(clientv3.Version(next), ">", 3)).
						Then(clientv3.OpGet(key)).Else(clientv3.OpGet(next)).Commit()
				case 4:
					resp, err = w.kv.Get(ctx, "a", clientv3.WithRange("d"))
				case 5:
					resp, err = w.kv.Delete(ctx, "n", clientv3.WithPrefix())
				default:
					resp, err = w.kv.Get(ctx, key)
				}
				if err != nil {
					t.Errorf("caller %d, step %d: %v", c, i, err)
					return
				}
				h := header(reply.Message(resp))
				if h.Revision < floor || h.ClusterId == 0 || h.MemberId == 0 || h.RaftTerm == 0 {
					t.Errorf("caller %d, step %d: the header is %v after revision %d was told", c, i, h, floor)
				}
				for old := told.Load(); old < h.Revision && !told.CompareAndSwap(old, h.Revision); old = told.Load() {
				}
			}
		})
	}
	callers.Wait()
}
