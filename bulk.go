package leasing

import (
	"context"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Many keys at once: owning them before they are read, and giving them back before
// anybody asks.

const (
	// prefetchWindow is how many claims a Prefetch has under way: enough for the
	// loops that send them always to find a full batch. Readers who claim a key
	// queue up behind them.
	prefetchWindow = 4 * maxBatch
	// prefetchPatience is how long a Prefetch goes on if it cannot claim a single key:
	// so long a request may be lost, and the session begin anew after it.
	prefetchPatience = 2 * callTimeout
)

// Owned reports whether a linearizable read of key would be answered from memory
// now. It is not, for a moment, while a write of ours to the key is under way. To
// ask does not count as a read.
func (kv *KV) Owned(key string) bool {
	if kv.closed() != nil {
		return false
	}
	// Invariant: I1. The clock is read after the snapshot is loaded.
	s := kv.cache.peek(key)
	return s != nil && s.lease.live(time.Now())
}

// Prefetch claims the keys that exist among those that a Get with the same arguments
// would return, so that the first read of each is answered from memory, and returns
// how many of them are owned then. Claims are sent in full batches. The options may
// be WithPrefix, WithRange or WithFromKey, and WithLimit, which bounds how many keys
// are looked at, in order; others give an error.
//
// It takes nothing from anybody: keys that others own, that rest after they were
// asked for, or that carry a lease of their own, stay as they are, and so do those
// that are being written. Nor does it displace what is owned: it ends at the first
// key that is one too many for Config.MaxKeys, or probably is for Config.MaxBytes. How
// much a key takes is known only when it is claimed, so some, 400 at most if all are of
// a size, may be claimed and given back at once. All this is no error, only the number is
// lower. Keys under the claim prefix are no data, and left out. Config.ClaimAfter does
// not apply.
//
// If keys cannot be claimed, because a connection broke, say, Prefetch goes on as
// soon as they can. It gives an error that says why if not one could be claimed for
// 10 s, at once if that is not going to change by itself (somebody who may not watch
// the claim prefix owns nothing), and in the end if etcd has refused every claim.
// Reads work all the same, so the caller may well go on. With any error, the number
// is what is owned by then. When ctx ends, up to 400 claims that are under way may
// still go through.
//
// The keys are listed in pages of 5,000, without their values, each as of its own
// time: a key that is put meanwhile may be missing, one that is deleted meanwhile may
// be owned as a key that does not exist.
func (kv *KV) Prefetch(ctx context.Context, key string, opts ...clientv3.OpOption) (owned int, err error) {
	if err := kv.closed(); err != nil {
		return 0, err
	}
	r, limit, err := prefetchRange(key, opts)
	if err != nil {
		return 0, err
	}
	p := prefetch{kv: kv, limit: limit}
	for _, part := range kv.layout.spare(r) { // Invariant: I13.
		if err = p.claimRange(ctx, part); err != nil {
			break
		}
	}
	if err == nil {
		err = kv.closed() // meanwhile, so that nothing is owned
	}
	owned = p.owned()
	if why := kv.session.troubles(); err == nil && owned == 0 && p.untold && why != nil {
		err = fmt.Errorf("leasing: no key under %q could be claimed: %w", key, why)
	}
	return owned, err
}

// prefetchRange returns what keys the arguments of a Prefetch mean, and how many at
// most.
func prefetchRange(key string, opts []clientv3.OpOption) (r keyRange, limit int64, err error) {
	if clientv3.IsOptsWithPrefix(opts) && clientv3.IsOptsWithFromKey(opts) {
		return r, 0, errors.New("leasing: Prefetch takes WithPrefix or WithFromKey, not both")
	}
	op := clientv3.OpGet(key, opts...)
	known := []clientv3.OpOption{clientv3.WithLimit(op.Limit())}
	switch {
	case op.IsOptsWithPrefix():
		known = append(known, clientv3.WithPrefix())
	case op.IsOptsWithFromKey():
		known = append(known, clientv3.WithFromKey())
	case op.RangeBytes() != nil:
		known = append(known, clientv3.WithRange(string(op.RangeBytes())))
	}
	switch {
	case !reflect.DeepEqual(op, clientv3.OpGet(key, known...)):
		return r, 0, errors.New("leasing: Prefetch takes no options but WithPrefix, WithRange, WithFromKey and WithLimit")
	case op.Limit() < 0:
		return r, 0, fmt.Errorf("leasing: the limit of Prefetch is %d: it must be at least 1, or 0 for none", op.Limit())
	case len(op.KeyBytes()) == 0:
		return r, 0, rpctypes.ErrEmptyKey
	}
	if r = rangeOf(op); r.end == "" {
		r.end = r.begin + "\x00"
	}
	if limit = op.Limit(); limit == 0 {
		limit = math.MaxInt64
	}
	return r, limit, nil
}

// prefetch is one Prefetch under way.
type prefetch struct {
	kv    *KV
	limit int64    // how many more keys may be listed
	had   []string // the keys that were owned when they were looked at

	untold bool // of some claim etcd has not told who has the key
}

// owned returns how many of the keys are owned now.
func (p *prefetch) owned() (n int) {
	for _, k := range p.had {
		if p.kv.Owned(k) {
			n++
		}
	}
	return n
}

// claimRange claims the keys in r, page by page.
func (p *prefetch) claimRange(ctx context.Context, r keyRange) error {
	for p.limit > 0 {
		keys, more, err := p.list(ctx, r)
		if err != nil {
			return err
		}
		if err := p.claim(ctx, keys); err != nil {
			return err
		}
		if !more {
			return nil
		}
		r.begin = keys[len(keys)-1] + "\x00"
	}
	return nil
}

// list returns the next page of keys in r.
func (p *prefetch) list(ctx context.Context, r keyRange) (keys []string, more bool, err error) {
	n := min(listPage, p.limit)
	resp, err := p.kv.etcd.Get(ctx, r.begin, clientv3.WithRange(r.end), clientv3.WithLimit(n), clientv3.WithKeysOnly())
	if err != nil {
		return nil, false, err
	}
	p.kv.cache.observe(resp.Header)
	for _, kv := range resp.Kvs {
		keys = append(keys, string(kv.Key))
	}
	p.limit -= int64(len(keys))
	return keys, resp.More, nil
}

// claim claims keys, and tries again those of which etcd has not told whether they
// may be claimed, as long as there are fewer of them every now and then.
func (p *prefetch) claim(ctx context.Context, keys []string) error {
	pace := backoff{first: 5 * time.Millisecond, last: 500 * time.Millisecond}
	for progress := time.Now(); ; {
		left, err := p.pass(ctx, keys)
		if err != nil || len(left) == 0 {
			return err
		}
		now := time.Now()
		if len(left) < len(keys) {
			progress = now
			pace.reset()
		}
		if why, stays := p.kv.session.obstacle(now); stays || now.Sub(progress) > prefetchPatience {
			return fmt.Errorf("leasing: keys cannot be claimed now, the next is %q: %w", left[0], why)
		}
		if err := p.kv.wait(ctx, nil, &pace); err != nil {
			return err
		}
		keys = left
	}
}

// pass goes through keys once, and returns those to be tried again. It ends early if
// etcd does not tell what became of a claim, or it was not sent: those behind it would
// fare no better.
func (p *prefetch) pass(ctx context.Context, keys []string) (left []string, err error) {
	var pending []*claim
	for told := true; len(keys) > 0 && told; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		part := keys[:min(len(keys), maxBatch)]
		w, ok := p.kv.session.want(part, time.Now())
		if !ok {
			break
		}
		keys = keys[len(part)-len(w.left):]
		p.had = append(p.had, w.owned...)
		left = append(left, w.soon...)
		pending = append(append(pending, w.begun...), w.joined...)
		most := prefetchWindow - maxBatch
		switch {
		case len(w.left) > 0 && len(pending) > 0:
			most = 0 // some of them may fail, and leave room
		case len(w.left) > 0:
			p.limit, keys = 0, nil
		}
		n := max(0, len(pending)-most)
		untold, err := p.await(ctx, pending[:n])
		if err != nil {
			return nil, err
		}
		left, pending, told = append(left, untold...), pending[n:], len(untold) == 0
	}
	untold, err := p.await(ctx, pending)
	return append(append(left, untold...), keys...), err
}

// await waits for claims, notes the keys that are owned then, and returns those of
// which etcd has not told what became of their claims.
func (p *prefetch) await(ctx context.Context, claims []*claim) (untold []string, err error) {
	for _, cl := range claims {
		switch told, err := p.told(ctx, cl); {
		case err != nil:
			return nil, err
		case !told:
			p.untold = true
			untold = append(untold, cl.key)
		case p.kv.Owned(cl.key):
			p.had = append(p.had, cl.key)
		}
	}
	return untold, nil
}

// told waits for a claim, and reports whether etcd has told what became of it.
func (p *prefetch) told(ctx context.Context, cl *claim) (bool, error) {
	select {
	case <-cl.done: // most are settled with others
	default:
		if answered, err := p.kv.await(ctx, cl); !answered {
			return false, err
		}
	}
	return cl.hdr != nil, nil
}

// Release gives keys back: they are forgotten, their claims are deleted in batches,
// and when it returns nil, that is confirmed: nobody has to ask for them any more.
// Keys that are not owned are no error; the claims of those that were lost with the
// session go with its leases, which nobody waits for here. A key that is being
// claimed is given back as soon as it is owned, and one that is being written is
// given back meanwhile, at the cost of one more request at most. No rest follows:
// the next read may claim the key again.
//
// If ctx ends before, its error is returned, and the keys are given back in the
// background, until etcd has confirmed it.
func (kv *KV) Release(ctx context.Context, keys ...string) error {
	if err := kv.closed(); err != nil {
		return err
	}
	var all released
	for part := range slices.Chunk(keys, maxBatch) { // not all of them under one lock
		r := kv.cache.release(part)
		all.yields = append(all.yields, r.yields...)
		all.leaving = append(all.leaving, r.leaving...)
		all.claims = append(all.claims, r.claims...)
	}
	if err := kv.gone(ctx, all.yields, all.leaving); err != nil {
		return err
	}
	var claimed []yield
	for _, cl := range all.claims {
		claimed = append(claimed, yield{key: cl.key})
		for answered := false; !answered; {
			var err error
			if answered, err = kv.await(ctx, cl); err != nil {
				return err
			}
		}
	}
	return kv.gone(ctx, nil, kv.cache.leaving(claimed))
}

// gone sends yields, and waits until the claims that are leaving are gone.
func (kv *KV) gone(ctx context.Context, yields, leaving []yield) error {
	pace := backoff{first: 20 * time.Millisecond, last: 2 * time.Second}
	for len(leaving) > 0 {
		w := kv.session.waiters.join(keysLeaving(leaving)...) // Invariant: I14. Waiters register before they send.
		kv.session.yield(yields)
		yields = nil
		var err error
		if leaving = kv.cache.leaving(leaving); len(leaving) > 0 { // some were on their way, and may be gone by now
			err = kv.wait(ctx, w.gone, &pace)
		}
		kv.session.waiters.leave(w)
		if err != nil {
			return err
		}
		leaving = kv.cache.leaving(leaving)
	}
	return nil
}

func keysLeaving(ys []yield) []string {
	keys := make([]string, len(ys))
	for i, y := range ys {
		keys[i] = y.key
	}
	return keys
}
