package leasing

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// txn collects a transaction. See clientv3.Txn.
type txn struct {
	kv       *KV
	ctx      context.Context
	uncached bool // nothing is answered from memory

	mu        sync.Mutex // guards the rest
	step      step
	cmps      []clientv3.Cmp
	then, els []clientv3.Op
	fewCmps   [2]clientv3.Cmp // where cmps are, if they are few
	fewOps    [2]clientv3.Op  // where then is
}

// step is how far a txn has been built.
type step uint8

const (
	nothing step = iota
	hasIf
	hasThen
	hasElse
)

func (t *txn) advance(to step, name string) {
	if t.step >= to {
		panic("leasing: " + name + " is called twice, or too late: the order is If, Then, Else")
	}
	t.step = to
}

// If takes the comparisons that decide between Then and Else.
func (t *txn) If(cs ...clientv3.Cmp) clientv3.Txn {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.advance(hasIf, "If")
	t.cmps = t.fewCmps[:0]
	for i := range cs {
		t.cmps = append(t.cmps, cloneCmp(&cs[i]))
	}
	return t
}

// Then takes the operations to execute if every comparison holds.
func (t *txn) Then(ops ...clientv3.Op) clientv3.Txn {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.advance(hasThen, "Then")
	t.then = append(t.fewOps[:0], ops...)
	return t
}

// Else takes the operations to execute if some comparison does not hold.
func (t *txn) Else(ops ...clientv3.Op) clientv3.Txn {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.advance(hasElse, "Else")
	t.els = slices.Clone(ops)
	return t
}

// Commit executes the transaction: from memory if it turns out to read owned
// keys only, else in etcd.
func (t *txn) Commit() (*clientv3.TxnResponse, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.uncached {
		return uncached{t.kv}.submit(t.ctx, t.cmps, t.then, t.els)
	}
	return t.kv.commit(t.ctx, t.cmps, t.then, t.els)
}

// committer executes a transaction.
type committer func(ctx context.Context, cmps []clientv3.Cmp, then, els []clientv3.Op) (*clientv3.TxnResponse, error)

// commit executes a transaction, from memory or in etcd.
func (kv *KV) commit(ctx context.Context, cmps []clientv3.Cmp, then, els []clientv3.Op) (*clientv3.TxnResponse, error) {
	if err := kv.closed(); err != nil {
		return nil, err
	}
	if resp := kv.evaluate(cmps, then, els); resp != nil {
		return resp, nil
	}
	return kv.submit(ctx, cmps, then, els, true)
}

// submit executes a transaction in etcd. Every write takes this way. Unless asks is set,
// nobody is asked for a key that it writes singly before etcd has judged it.
func (kv *KV) submit(ctx context.Context, cmps []clientv3.Cmp, then, els []clientv3.Op, asks bool) (*clientv3.TxnResponse, error) {
	if err := kv.closed(); err != nil {
		return nil, err
	}
	p, err := newPlan(kv.layout, kv.maxOps, cmps, then, els)
	if err != nil {
		return nil, err
	}
	if !p.readOnly() {
		return kv.guarded(ctx, p, asks)
	}
	return kv.decide(ctx, cmps, then, els)
}

// decide sends a transaction that writes nothing.
//
// Invariant: I10. etcd answers a transaction without operations on whichever
// member gets it, however far behind that is. So comparisons alone are sent
// with a read of one of their keys.
func (kv *KV) decide(ctx context.Context, cmps []clientv3.Cmp, then, els []clientv3.Op) (*clientv3.TxnResponse, error) {
	kv.cache.count.forwards[forKind].Add(1)
	alone := len(cmps) > 0 && len(then)+len(els) == 0
	if alone {
		then = []clientv3.Op{clientv3.OpGet(string(cmps[0].KeyBytes()), clientv3.WithCountOnly())}
		els = then
	}
	resp, err := kv.etcd.Txn(ctx).If(cmps...).Then(then...).Else(els...).Commit()
	if err != nil {
		return nil, err
	}
	kv.cache.observe(resp.Header)
	if alone {
		resp.Responses = nil
	}
	return resp, nil
}

// guarded writes: it tries until no claim is in the way. It asks before the first try if
// asks is set and a claim is known to be.
func (kv *KV) guarded(ctx context.Context, p *plan, asks bool) (resp *clientv3.TxnResponse, err error) {
	pace := backoff{first: 100 * time.Millisecond, last: 2 * time.Second}
	begin, waited := time.Now(), false
	defer func() { kv.cache.count.write(resp != nil, waited, time.Since(begin)) }()
	for tries := 0; ; tries++ {
		if err := kv.closed(); err != nil {
			return nil, err
		}
		asked := false
		if tries == 0 && asks {
			asked, err = kv.askFirst(ctx, p)
			if waited = asked; err != nil {
				return nil, err
			}
		}
		var known *waiter // Invariant: I14. Waiters register before they send.
		if p.single() {
			known = kv.session.waiters.join(p.points[0])
		}
		var way blockers
		resp, way, err = kv.try(ctx, p, tries == 0)
		if asked && err != nil && outcomeOf(err) == refused {
			kv.hush(p)
		}
		waited = waited || slices.ContainsFunc(way.claims, func(r claimRecord) bool { return !kv.session.ours(r) })
		if resp == nil && err == nil {
			err = kv.clear(ctx, way, known, tries, &pace)
		}
		if known != nil {
			kv.session.waiters.leave(known)
		}
		if resp != nil || err != nil {
			return resp, err
		}
	}
}

// askFirst asks for the keys of p that others own, as far as is known, and waits until
// they are given back: a write that would be refused is not sent. It does not wait for
// long, as what is known may be old, and who is in a hurry goes the usual way.
func (kv *KV) askFirst(ctx context.Context, p *plan) (asked bool, err error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	now := time.Now()
	if end, ok := ctx.Deadline(); ok && end.Sub(now) < 2*askPause {
		return false, nil
	}
	held := kv.cache.holders(p.points, now)
	if len(held) == 0 || p.bulky() {
		return false, nil
	}
	keys := keysOf(held)
	w := kv.session.waiters.join(keys...)
	defer kv.session.waiters.leave(w)
	if !kv.session.ask(keys) {
		return false, nil
	}
	return true, kv.waitFor(ctx, w, held, &backoff{first: askPause, last: askPause})
}

// askPause is how long a write that has asked first waits before it is sent, at most.
const askPause = 100 * time.Millisecond

// hush is told that p, which has asked first, was refused for another reason. Nobody
// shall have to give a key up again and again for writes that etcd does not take.
func (kv *KV) hush(p *plan) {
	for _, key := range p.points {
		kv.cache.quiet(key, time.Now())
	}
}

// blockers are the claims in the way of a write: those of others, and those of
// ours that are being yielded.
type blockers struct {
	claims []claimRecord
	asked  bool // they have been asked for in the same request
}

// try sends p once. Both results are nil if a guard refused it, or would have.
//
// Invariant: I3. Only what was refused is ever sent again.
func (kv *KV) try(ctx context.Context, p *plan, first bool) (resp *clientv3.TxnResponse, way blockers, err error) {
	w, err := kv.begin(ctx, p)
	if err != nil {
		return nil, way, err
	}
	s := settlement{outcome: refused} // nothing has been sent
	defer func() { kv.session.yield(kv.cache.settle(w, s)) }()
	listed, others, err := kv.listClaims(ctx, p)
	if err != nil || len(others) > 0 {
		return nil, blockers{claims: others}, err
	}
	asks := first && p.single() && kv.caution.expect(w.points[0]) && !kv.session.lingers() // it would ask ourselves
	q := p.request(w, listed, asks)
	if err := ctx.Err(); err != nil {
		return nil, way, err
	}
	s.outcome = unknown // until told otherwise
	sent, err := kv.etcd.Txn(ctx).If(q.guards...).Then(q.then...).Else(q.els...).Commit()
	if err != nil {
		if s.outcome = outcomeOf(err); s.outcome == unknown {
			kv.cache.count.unknowns.Add(1)
		}
		return nil, way, p.explain(err)
	}
	s.hdr = sent.Header
	if !sent.Succeeded {
		s.outcome, s.claims = refused, p.claims(sent)
		for i, r := range s.claims {
			if r != nil && r.grant != w.points[i].grant {
				way.claims = append(way.claims, *r)
			}
		}
		way.claims = append(way.claims, kv.othersOf(p, p.newcomers(q, sent))...)
		if way.asked = q.asks; way.asked && len(way.claims) > 0 && !way.claims[0].revoked {
			kv.cache.count.revokesSent.Add(1)
		}
		if p.single() && len(way.claims) > 0 {
			kv.caution.met()
		}
		return nil, way, nil
	}
	if q.asks {
		kv.caution.unneeded()
	}
	s.outcome, s.read = applied, p.readBacks(q, sent)
	return p.reply(q, sent), way, nil
}

// begin opens the write of p, once no claim of ours is under way on its keys,
// or when that takes too long. No new claims begin on them meanwhile: with many
// readers there would always be one.
func (kv *KV) begin(ctx context.Context, p *plan) (*write, error) {
	var place *write
	defer func() {
		if place != nil {
			kv.cache.settle(place, settlement{outcome: refused})
		}
	}()
	for impatient := false; ; {
		w, busy := kv.cache.begin(p.points, p.ranges, p.barred(), impatient)
		if busy == nil {
			return w, nil
		}
		if place == nil {
			place, _ = kv.cache.begin(nil, nil, p.places(), false)
		}
		answered, err := kv.await(ctx, busy)
		if err != nil {
			return nil, err
		}
		impatient = !answered
	}
}

// listClaims lists the claims in the ranges that p guards by a listing, and
// returns its revision and the claims of others in the way.
//
// Invariant: I5. The listing itself has to show that there is none.
func (kv *KV) listClaims(ctx context.Context, p *plan) (rev int64, way []claimRecord, err error) {
	if len(p.barred()) == 0 {
		return 0, nil, nil
	}
	listing, rev, err := kv.session.list(ctx, kv.layout.claimRange(hull(p.barred())))
	if err != nil {
		return 0, nil, err
	}
	return rev, kv.othersOf(p, listing), nil
}

// othersOf returns those of the listed claims that are others', on keys that p
// may write.
func (kv *KV) othersOf(p *plan, listing []claimRecord) (others []claimRecord) {
	for _, c := range listing {
		if p.writes(c.key) && !kv.session.ours(c) {
			others = append(others, c)
		}
	}
	return others
}

// clear asks for the claims in the way, if they have not been asked for, and
// waits until they are gone, or until it is time to look again. known is the
// waiter that was there before, if there is one.
func (kv *KV) clear(ctx context.Context, way blockers, known *waiter, tries int, pace *backoff) error {
	if len(way.claims) == 0 {
		// A claim went, or a new one came, and nobody is to be waited for.
		d := min(time.Duration(tries)*10*time.Millisecond, 200*time.Millisecond)
		return kv.wait(ctx, nil, &backoff{first: d, last: d})
	}
	w := known
	if w == nil {
		w = kv.session.waiters.join(keysOf(way.claims)...)
		defer kv.session.waiters.leave(w)
	}
	var ask []claimRecord
	for _, r := range way.claims {
		switch {
		case kv.session.ours(r):
			kv.session.yield(kv.cache.created(r))
		case !r.revoked && !way.asked:
			ask = append(ask, r)
		}
	}
	switch err := kv.session.revoke(ctx, ask, w); {
	case errors.Is(err, rpctypes.ErrNoSpace):
		return fmt.Errorf("leasing: %q is owned by another client, and to ask for it takes a put: "+
			"delete it there, or clear the alarm: %w", ask[0].key, err)
	case err != nil:
		return err
	}
	return kv.waitFor(ctx, w, way.claims, pace)
}

func keysOf(claims []claimRecord) []string {
	keys := make([]string, len(claims))
	for i, r := range claims {
		keys[i] = r.key
	}
	return keys
}

// waitFor waits with w until claims are gone, or until it is time to look again.
func (kv *KV) waitFor(ctx context.Context, w *waiter, claims []claimRecord, pace *backoff) error {
	err := kv.wait(ctx, w.gone, pace)
	if err == nil || errors.Is(err, ErrClosed) {
		return err
	}
	r := kv.session.waiters.first(w, claims)
	if r.lease == clientv3.NoLease {
		return fmt.Errorf("leasing: %q is in the way of %q, but hangs on no lease and so is no claim: move your data, "+
			"or choose a prefix that holds none: %w", kv.layout.claimKey(r.key), r.key, err)
	}
	return fmt.Errorf("leasing: %q is owned by another client, which has not given it back yet (claim %q on lease %x): %w",
		r.key, kv.layout.claimKey(r.key), r.lease, err)
}

// wait waits for done, or for the pause of pace, or for the end of ctx or of
// the KV.
func (kv *KV) wait(ctx context.Context, done <-chan struct{}, pace *backoff) error {
	t := time.NewTimer(pace.pause())
	defer t.Stop()
	select {
	case <-done:
		return nil
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-kv.closing:
		return ErrClosed
	}
}
