package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	linear "github.com/etcd-leasing/leasing/internal/history"
)

// history is what parties did to a few keys, and what etcd says of it.
type history struct {
	e      *env
	clock  atomic.Int64
	values atomic.Int64
	told   atomic.Int64 // the revision up to which the observer's watch has told

	mu     sync.Mutex
	events map[string][]*clientv3.Event
	writes map[string][]linear.Write
	reads  map[string][]linear.Read
}

var (
	historyKeys = []string{"a", "b", "c"}
	historyEnd  = "~end" // is written when all is over
)

// record starts a history, with a watch from the first revision on.
func (e *env) record() *history {
	h := &history{
		e:      e,
		events: make(map[string][]*clientv3.Event),
		writes: make(map[string][]linear.Write),
		reads:  make(map[string][]linear.Read),
	}
	watch := e.plain.Watch(e.ctx, "", clientv3.WithFromKey(), clientv3.WithRev(1))
	go func() {
		for resp := range watch {
			h.mu.Lock()
			for _, ev := range resp.Events {
				key := string(ev.Kv.Key)
				h.events[key] = append(h.events[key], ev)
				h.told.Store(ev.Kv.ModRevision)
			}
			h.mu.Unlock()
		}
	}()
	return h
}

// play has every party read and write until ctx ends: two readers and a writer
// each.
func (h *history) play(ctx context.Context, parties []*party) (wait func()) {
	var waits []func()
	for i, p := range parties {
		name := fmt.Sprint("kv", i)
		for range 2 {
			waits = append(waits, h.e.begin(func() { h.loop(ctx, time.Millisecond, func(ctx context.Context) { h.read(ctx, name, p) }) }))
		}
		// Writers pause, so that keys get owned.
		waits = append(waits, h.e.begin(func() { h.loop(ctx, 300*time.Millisecond, func(ctx context.Context) { h.write(ctx, name, p) }) }))
	}
	return func() {
		for _, wait := range waits {
			wait()
		}
	}
}

// loop does one operation after the other, with pauses of up to so much.
func (h *history) loop(ctx context.Context, pause time.Duration, op func(context.Context)) {
	for ctx.Err() == nil {
		limited, cancel := context.WithTimeout(ctx, 10*time.Millisecond+rand.N(3*time.Second))
		op(limited)
		cancel()
		select {
		case <-time.After(rand.N(pause)):
		case <-ctx.Done():
		}
	}
}

func (h *history) now() int64 { return h.clock.Add(1) }

func (h *history) read(ctx context.Context, name string, kv clientv3.KV) {
	key := historyKeys[rand.IntN(len(historyKeys))]
	call := h.now()
	resp, err := kv.Get(ctx, key)
	if err != nil {
		return
	}
	h.saw(name, call, resp.Header.Revision, resp.Kvs, key)
}

// saw notes what a reply said of a key.
func (h *history) saw(name string, call, rev int64, kvs []*mvccpb.KeyValue, key string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := linear.Read{Client: name, Call: call, Ret: h.now(), Header: rev}
	if len(kvs) > 0 {
		r.KV = kvs[0]
	}
	h.reads[key] = append(h.reads[key], r)
}

// write puts or deletes a key, alone or in a transaction.
func (h *history) write(ctx context.Context, name string, kv clientv3.KV) {
	key := historyKeys[rand.IntN(len(historyKeys))]
	w := linear.Write{Client: name, Call: h.now(), Value: fmt.Sprint(name, "-", h.values.Add(1))}
	var hdr *pb.ResponseHeader
	switch kind := rand.IntN(10); {
	case kind < 6:
		var r *clientv3.PutResponse
		r, w.Err = kv.Put(ctx, key, w.Value)
		hdr = (*pb.PutResponse)(r).GetHeader()
	case kind < 8:
		var r *clientv3.TxnResponse
		r, w.Err = kv.Txn(ctx).If(clientv3.Compare(clientv3.Version(key), ">", -1)).Then(clientv3.OpPut(key, w.Value)).Commit()
		hdr = (*pb.TxnResponse)(r).GetHeader()
	default:
		var r *clientv3.DeleteResponse
		r, w.Err = kv.Delete(ctx, key)
		hdr = (*pb.DeleteRangeResponse)(r).GetHeader()
		w.Delete, w.Changed = true, (*pb.DeleteRangeResponse)(r).GetDeleted() > 0
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	w.Ret, w.Rev = h.now(), hdr.GetRevision()
	h.writes[key] = append(h.writes[key], w)
}

// judge has everybody read every key once more, and fails unless the history
// is linearizable.
func (h *history) judge(parties []*party) {
	e := h.e
	for i, p := range parties {
		for _, key := range historyKeys {
			e.until(fmt.Sprintf("party %d reads again", i), func() bool {
				call := h.now()
				return e.tries(2*time.Second, func(ctx context.Context) error {
					resp, err := p.Get(ctx, key)
					if err == nil {
						h.saw(fmt.Sprint("kv", i), call, resp.Header.Revision, resp.Kvs, key)
					}
					return err
				}) == nil
			})
		}
	}
	end, err := e.plain.Put(e.ctx, historyEnd, "")
	e.must(err)
	e.until("the watch has told everything", func() bool { return h.told.Load() >= end.Header.Revision })
	h.mu.Lock()
	defer h.mu.Unlock()
	reads, stale, twice := 0, 0, 0
	var errs []error
	for _, key := range historyKeys {
		errs = append(errs, linear.Check(linear.Key{Name: key, Events: h.events[key], Writes: h.writes[key], Reads: h.reads[key]}))
		reads += len(h.reads[key])
		stale += h.staleLocked(key)
		twice += h.twiceLocked(key)
	}
	e.show("%s", plural(stale, "stale read"))
	if twice > 0 {
		e.show("%s, %s applied twice", plural(stale, "stale read"), plural(twice, "write"))
	}
	e.expect(reads > 100, "only %d reads", reads)
	if err := errors.Join(errs...); err != nil {
		e.fail("%s", problem(err))
	}
}

// problem says what is wrong with a history, in words that do not change from
// one run to the next.
func problem(err error) string {
	for _, p := range []struct{ part, says string }{
		{"applied twice", "a write was applied twice"},
		{"not linearizable", "the history is not linearizable"},
		{"but there is no such event", "a write was acknowledged that etcd knows nothing of"},
		{"but the event says", "a write was acknowledged at another revision than its own"},
		{"never was", "a read returned what never was"},
		{"under a header of", "a read returned what is newer than its header"},
	} {
		if strings.Contains(err.Error(), p.part) {
			return p.says
		}
	}
	return err.Error()
}

// staleLocked counts the reads of a key that returned what had been
// overwritten, by a write that was acknowledged, before they began.
func (h *history) staleLocked(key string) (n int) {
	acknowledged := make(map[int64]int64) // when, by revision
	for _, w := range h.writes[key] {
		if w.Err == nil {
			acknowledged[w.Rev] = w.Ret
		}
	}
	for _, r := range h.reads[key] {
		for _, ev := range h.events[key] {
			at, ok := acknowledged[ev.Kv.ModRevision]
			if ok && at < r.Call && r.KV != nil && r.KV.ModRevision < ev.Kv.ModRevision {
				n++
				break
			}
		}
	}
	return n
}

// twiceLocked counts the writes of a key that were applied more than once.
func (h *history) twiceLocked(key string) (n int) {
	times := make(map[string]int)
	for _, ev := range h.events[key] {
		if v := string(ev.Kv.Value); ev.Type == mvccpb.PUT {
			if times[v]++; times[v] == 2 {
				n++
			}
		}
	}
	return n
}
