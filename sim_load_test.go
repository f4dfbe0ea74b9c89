package leasing_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-leasing/leasing"
	"github.com/etcd-leasing/leasing/internal/history"
	"github.com/etcd-leasing/leasing/internal/memetcd"
)

// The operations of a simulation, and what is noted of them.

// work does random operations through n until ctx ends.
func (s *sim) work(ctx context.Context, rng *rand.Rand, n *node) {
	var last int64 // the latest header revision of kv
	var kv clientv3.KV
	for sleep(ctx, time.Duration(rng.IntN(300))*time.Millisecond) {
		if now := n.current(); now != kv {
			kv, last = now, 0
		}
		if leased, ok := kv.(*leasing.KV); ok && rng.IntN(20) == 0 {
			s.bulk(ctx, rng, leased)
			continue
		}
		rev, err := s.do(ctx, rng, n, kv)
		if err != nil {
			continue
		}
		if rev < last {
			s.t.Errorf("%s: header revision %d after %d", n.name, rev, last)
		}
		last = rev
	}
}

// bulk has some keys owned, or gives some back.
func (s *sim) bulk(ctx context.Context, rng *rand.Rand, kv *leasing.KV) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(1+rng.IntN(8000))*time.Millisecond)
	defer cancel()
	first := rng.IntN(len(simKeys))
	if rng.IntN(2) == 0 {
		_ = kv.Release(ctx, simKeys[first:]...)
		return
	}
	if n, _ := kv.Prefetch(ctx, simKeys[first], clientv3.WithFromKey()); n > len(simKeys)-first {
		s.t.Errorf("%d keys are owned of %d", n, len(simKeys)-first)
	}
}

// do does one operation, within a time or until it is cancelled, and returns
// its header's revision.
func (s *sim) do(ctx context.Context, rng *rand.Rand, n *node, kv clientv3.KV) (int64, error) {
	a := &act{sim: s, Rand: rng, kv: kv, client: n.name, call: s.now(), began: time.Now()}
	ctx, cancel := context.WithCancel(context.WithValue(ctx, simCall{}, a.call))
	defer cancel()
	if d := time.Duration(1+rng.IntN(8000)) * time.Millisecond; rng.IntN(2) == 0 {
		defer time.AfterFunc(d, cancel).Stop()
	} else {
		var done context.CancelFunc
		ctx, done = context.WithTimeout(ctx, d)
		defer done()
	}
	write := n.name != "plain" && rng.IntN(100) < s.share // every writer has to take part in the protocol
	rev, err := a.any(ctx, write)
	if err != nil && write {
		s.mu.Lock()
		s.unknown = append(s.unknown, a)
		s.mu.Unlock()
	}
	return rev, err
}

// simCall is the key of a context's int64, the call of an act.
type simCall struct{}

// act is one operation of a client.
type act struct {
	*sim
	*rand.Rand
	kv     clientv3.KV
	client string
	call   int64
	began  time.Time
}

func (a *act) key() string { return simKeys[a.IntN(len(simKeys))] }

func (a *act) newValue() string { return fmt.Sprint(a.value.Add(1)) }

// any does one operation that writes or only reads.
func (a *act) any(ctx context.Context, write bool) (int64, error) {
	kind := a.IntN(20)
	switch {
	case !write && kind < 15:
		return a.get(ctx)
	case !write && kind < 16:
		return a.getRange(ctx)
	case !write:
		return a.txn(ctx, false)
	case kind < 8:
		return a.put(ctx)
	case kind < 10:
		return a.delete(ctx)
	case kind < 12:
		return a.deleteRange(ctx)
	}
	return a.txn(ctx, true)
}

func (a *act) get(ctx context.Context) (int64, error) {
	key := a.key()
	resp, err := a.kv.Get(ctx, key)
	if err != nil {
		return 0, err
	}
	a.saw(key, resp.Kvs, resp.Header.Revision, true)
	a.counted(resp.Count, resp.Kvs)
	return resp.Header.Revision, nil
}

func (a *act) getRange(ctx context.Context) (int64, error) {
	resp, err := a.kv.Get(ctx, "b", clientv3.WithRange("d"))
	if err != nil {
		return 0, err
	}
	for _, key := range []string{"b", "c"} {
		a.saw(key, resp.Kvs, resp.Header.Revision, true)
	}
	a.counted(resp.Count, resp.Kvs)
	return resp.Header.Revision, nil
}

func (a *act) put(ctx context.Context) (int64, error) {
	key, val := a.key(), a.newValue()
	var opts []clientv3.OpOption
	switch a.IntN(10) {
	case 0:
		opts = append(opts, clientv3.WithLease(clientv3.LeaseID(a.lease.Load())))
	case 1:
		opts = append(opts, clientv3.WithIgnoreLease())
	case 2, 3:
		opts = append(opts, clientv3.WithPrevKV())
	}
	resp, err := a.kv.Put(ctx, key, val, opts...)
	if err != nil {
		return 0, err
	}
	if len(opts) > 0 && clientv3.OpPut(key, val, opts...).IsPrevKV() {
		a.saw(key, slices.DeleteFunc([]*mvccpb.KeyValue{resp.PrevKv}, func(kv *mvccpb.KeyValue) bool { return kv == nil }), resp.Header.Revision, false)
	}
	a.wrote(key, val, resp.Header.Revision)
	return resp.Header.Revision, nil
}

func (a *act) delete(ctx context.Context) (int64, error) {
	key := a.key()
	resp, err := a.kv.Delete(ctx, key)
	if err != nil {
		return 0, err
	}
	if resp.Deleted == 0 {
		a.saw(key, nil, resp.Header.Revision, true)
	}
	a.deleted(key, resp.Deleted, resp.Header.Revision)
	return resp.Header.Revision, nil
}

func (a *act) deleteRange(ctx context.Context) (int64, error) {
	resp, err := a.kv.Delete(ctx, "b", clientv3.WithRange("d"), clientv3.WithPrevKV())
	if err != nil {
		return 0, err
	}
	for _, key := range []string{"b", "c"} {
		a.saw(key, resp.PrevKvs, resp.Header.Revision, resp.Deleted == 0)
	}
	for _, kv := range resp.PrevKvs {
		a.deleted(string(kv.Key), 1, resp.Header.Revision)
	}
	a.counted(resp.Deleted, resp.PrevKvs)
	return resp.Header.Revision, nil
}

// part is one operation of a transaction.
type part struct {
	key string
	val string // to be put
	op  clientv3.Op
}

// parts returns operations on different keys, and whether one of them writes.
func (a *act) parts(write bool) (parts []part, writes bool) {
	for _, i := range a.Perm(len(simKeys))[:1+a.IntN(3)] {
		p := part{key: simKeys[i]}
		switch kind := a.IntN(6); {
		case !write || kind < 2:
			p.op = clientv3.OpGet(p.key)
		case kind < 5:
			p.val = a.newValue()
			p.op = clientv3.OpPut(p.key, p.val)
		default:
			p.op = clientv3.OpDelete(p.key)
		}
		parts, writes = append(parts, p), writes || !p.op.IsGet()
	}
	return parts, writes
}

// comparison is one of a transaction, and what it says.
type comparison struct {
	key   string
	cmp   clientv3.Cmp
	holds func(*mvccpb.KeyValue) bool
}

func (a *act) comparison() comparison {
	key := a.key()
	if a.IntN(2) == 0 {
		return comparison{key, clientv3.Compare(clientv3.CreateRevision(key), "=", 0), func(kv *mvccpb.KeyValue) bool { return kv == nil }}
	}
	n := int64(a.IntN(3))
	return comparison{key, clientv3.Compare(clientv3.Version(key), ">", n), func(kv *mvccpb.KeyValue) bool { return kv.GetVersion() > n }}
}

// txn does a transaction on several keys, with or without comparisons.
func (a *act) txn(ctx context.Context, write bool) (int64, error) {
	var cmps []comparison
	var ifs []clientv3.Cmp
	for range a.IntN(3) {
		c := a.comparison()
		cmps, ifs = append(cmps, c), append(ifs, c.cmp)
	}
	then, thenWrites := a.parts(write)
	els, elsWrites := a.parts(write)
	nest := a.IntN(4) == 0
	resp, err := a.kv.Txn(ctx).If(ifs...).Then(ops(then, nest)...).Else(ops(els, nest)...).Commit()
	if err != nil {
		return 0, err
	}
	rev, writes := resp.Header.Revision, thenWrites
	taken := then
	if !resp.Succeeded {
		taken, writes = els, elsWrites
	}
	for _, c := range cmps {
		switch {
		case resp.Succeeded:
			a.compared(c.key, c.holds, rev, !writes)
		case len(cmps) == 1:
			a.compared(c.key, func(kv *mvccpb.KeyValue) bool { return !c.holds(kv) }, rev, !writes)
		}
	}
	replies := resp.Responses
	if nest {
		replies = replies[0].GetResponseTxn().Responses
	}
	for i, p := range taken {
		switch {
		case p.op.IsGet():
			a.saw(p.key, replies[i].GetResponseRange().Kvs, rev, !writes)
		case p.op.IsPut():
			a.wrote(p.key, p.val, rev)
		default:
			a.deleted(p.key, replies[i].GetResponseDeleteRange().Deleted, rev)
		}
	}
	return rev, nil
}

// ops returns the operations of parts, in a transaction of their own if nest is
// set.
func ops(parts []part, nest bool) []clientv3.Op {
	var ops []clientv3.Op
	for _, p := range parts {
		ops = append(ops, p.op)
	}
	if nest {
		return []clientv3.Op{clientv3.OpTxn(nil, ops, nil)}
	}
	return ops
}

func (a *act) counted(n int64, kvs []*mvccpb.KeyValue) {
	if n != int64(len(kvs)) {
		a.t.Errorf("%s: count %d of %d keys", a.client, n, len(kvs))
	}
}

// saw notes what a read returned of key, and whether nothing was written with
// it.
func (a *act) saw(key string, kvs []*mvccpb.KeyValue, header int64, alone bool) {
	r := history.Read{Header: header, AsOf: alone}
	if i := slices.IndexFunc(kvs, func(kv *mvccpb.KeyValue) bool { return string(kv.Key) == key }); i >= 0 {
		r.KV = kvs[i]
	}
	a.noted(key, r, alone)
}

// compared notes what a comparison found to hold of key.
func (a *act) compared(key string, holds func(*mvccpb.KeyValue) bool, header int64, alone bool) {
	a.noted(key, history.Read{Holds: holds, Header: header, AsOf: alone}, alone)
}

func (a *act) noted(key string, r history.Read, alone bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	r.Client, r.Call, r.Ret = a.client, a.call, a.now()
	if since := a.doubtLocked(key, a.began); since != 0 && alone && a.client != a.plain.name {
		// By itself: of the keys of one transaction, this one may be older.
		r.Since, r.Call = min(since, a.call), r.Ret
		r.Ret = a.now()
	}
	a.reads[key] = append(a.reads[key], r)
}

// wrote notes a put that was acknowledged.
func (a *act) wrote(key, val string, rev int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.writes[key] = append(a.writes[key], history.Write{Client: a.client, Call: a.call, Ret: a.now(), Value: val, Rev: rev})
}

// deleted notes a deletion that was acknowledged.
func (a *act) deleted(key string, n, rev int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.writes[key] = append(a.writes[key], history.Write{
		Client: a.client, Call: a.call, Ret: a.now(), Delete: true, Changed: n > 0, Rev: rev,
	})
}

// settleUnknown notes what became of the writes that failed: etcd in memory
// knows which were applied, at which revision. None is applied twice.
//
// Invariant: I3.
func (s *sim) settleUnknown(t *testing.T) {
	known := make(map[int64]bool)
	for call, revs := range s.applied {
		if len(revs) > 1 {
			t.Errorf("call %d was applied %d times, at revisions %v", call, len(revs), revs)
		}
		known[revs[0]] = true
	}
	for key, events := range s.events {
		for _, ev := range events {
			if ev.Type == mvccpb.PUT && !known[ev.Kv.ModRevision] {
				t.Errorf("nobody put %q at revision %d", key, ev.Kv.ModRevision)
			}
		}
	}
	for _, a := range s.unknown {
		for _, rev := range s.applied[a.call] {
			for key, events := range s.events {
				for _, ev := range events {
					if ev.Kv.ModRevision == rev {
						s.writes[key] = append(s.writes[key], history.Write{
							Client: a.client, Call: a.call, Delete: ev.Type == mvccpb.DELETE, Value: string(ev.Kv.Value), Err: memetcd.ErrLost, Rev: rev,
						})
					}
				}
			}
		}
	}
}
