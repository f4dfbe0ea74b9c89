package leasing

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.uber.org/zap"
)

var (
	// ErrClosed is returned by every operation of a KV after its Close. What
	// was under way then was sent at most once, as ever.
	ErrClosed = errors.New("leasing: the KV is closed")

	// ErrClaimPrefix is returned for a write of a single key under the claim
	// prefix, where there are claims and no data. Nothing has been sent.
	ErrClaimPrefix = errors.New("leasing: the key is under the claim prefix")

	// ErrTxnTooLarge is returned for a transaction that etcd would take, but
	// that leaves no room for the guards that make it safe. Nothing has been
	// sent.
	ErrTxnTooLarge = errors.New("leasing: the transaction is too large to be guarded")
)

// KV is a clientv3.KV that answers reads of the keys it owns from memory. It
// is safe for concurrent use.
type KV struct {
	etcd    clientv3.KV
	layout  layout
	maxOps  int
	cache   *cache
	session *session

	caution caution

	closeOnce sync.Once
	closing   chan struct{} // closed when Close begins
}

var _ clientv3.KV = (*KV)(nil)

// slowStart is how long New waits in silence.
const slowStart = 5 * time.Second

// New returns a KV on cl, which it uses as it is: through cl.KV, cl.Watcher
// and cl.Lease at this time, so that the wrappers of package namespace,
// credentials and interceptors apply. It waits until keys can be owned and the
// watches of Config.WatchData run, or until etcd has refused that, which the log
// tells: reads then go to etcd. ctx bounds the wait and nothing else. The caller must
// Close the KV before the client.
func New(ctx context.Context, cl *clientv3.Client, cfg Config) (*KV, error) {
	return open(ctx, cl, cfg, handedIn{life: context.Background()})
}

// handedIn is what bounds the life of a session from outside.
type handedIn struct {
	lease clientv3.LeaseID
	life  context.Context
}

func open(ctx context.Context, cl *clientv3.Client, cfg Config, in handedIn) (*KV, error) {
	cfg, err := cfg.validate()
	if err != nil {
		return nil, err
	}
	log := cfg.Logger
	if log == nil {
		log = cl.GetLogger()
	}
	perLease := cmp.Or(cfg.perLease, claimsPerLease)
	if cl.Username != "" {
		perLease = claimsPerAuthLease
	}
	kv := &KV{
		etcd: cl.KV, layout: newLayout(cfg.Prefix), maxOps: cfg.MaxTxnOps,
		cache: newCache(cfg.MaxKeys), closing: make(chan struct{}),
	}
	kv.cache.events = newEvents(cfg.OnEvent, func() { kv.cache.count.eventsLost.Add(1) })
	kv.cache.claimAfter(cfg.ClaimAfter)
	kv.cache.maxBytes = cfg.MaxBytes
	kv.session = &session{
		kv: cl.KV, watcher: cl.Watcher, lessor: cl.Lease,
		cache: kv.cache, layout: kv.layout, log: log,
		maxBatch: min(maxBatch, cfg.MaxTxnOps-2), maxAll: min(maxBatch, cfg.MaxTxnOps/2), // two comparisons and two operations each
		ttl: int64((cfg.TTL + time.Second - 1) / time.Second), perLease: perLease,
		idle: cfg.IdleTimeout, handed: in.lease, life: in.life, data: cfg.WatchData, endpoints: cl.Endpoints(),
	}
	if cl.Maintenance != nil {
		kv.session.servers = cl.Maintenance
	}
	kv.session.ctx, kv.session.stop = context.WithCancel(cl.Ctx())
	kv.session.start()
	if err := kv.awaitSession(ctx, cl); err != nil {
		kv.Close()
		return nil, fmt.Errorf("leasing: no session with etcd at %q under prefix %q: %w", cl.Endpoints(), cfg.Prefix, err)
	}
	return kv, nil
}

// awaitSession waits until keys can be owned and the watches on data run, or until etcd
// has refused that.
func (kv *KV) awaitSession(ctx context.Context, cl *clientv3.Client) error {
	s := kv.session
	slow := time.NewTimer(slowStart)
	defer slow.Stop()
	for waits := append([]chan struct{}{s.ready}, s.watched...); len(waits) > 0 && ctx.Err() == nil; {
		select {
		case <-waits[0]:
			waits = waits[1:]
		case <-slow.C:
			s.log.Warn("leasing: still no session with etcd, waiting on",
				zap.String("prefix", s.layout.prefix), zap.Strings("endpoints", cl.Endpoints()), zap.NamedError("latest", s.troubles()))
		case <-ctx.Done():
		case <-cl.Ctx().Done():
			return fmt.Errorf("the client is closed: %w", cl.Ctx().Err())
		}
	}
	// The wait may also be over because ctx is: in NewKV it bounds the life of the session.
	if err := s.troubles(); ctx.Err() != nil && err != nil {
		return fmt.Errorf("%w; %w", ctx.Err(), err)
	}
	return ctx.Err()
}

// NewKV is the drop-in for NewKV of etcd's package client/v3/leasing: the same
// arguments, the same results. The function that it returns closes the KV.
//
// The options mean what they mean there. WithTTL is the time to live of the
// leases of the KV. A lease handed in with WithLease bounds the life of the
// KV's ownership: it is kept alive, carries no claims and is never revoked.
// The context given with WithContext (else the client's) bounds both the wait
// of NewKV and, again, the life of the KV's ownership. When either is over,
// reads and writes go to etcd.
func NewKV(cl *clientv3.Client, pfx string, opts ...concurrency.SessionOption) (clientv3.KV, func(), error) {
	so := readOptions(cl, opts)
	kv, err := open(so.in.life, cl, Config{Prefix: pfx, TTL: so.ttl}, so.in)
	if err != nil {
		return nil, func() {}, err
	}
	return kv, func() { kv.Close() }, nil
}

// Close hands over every key that is owned: when it returns, the next writer
// goes straight through. It waits for everything that the KV has started, is
// done within 3 s, and 20 ms more for each 1,000 keys (100 with password
// authentication), even if etcd cannot be reached (what is owned then passes on
// when its leases expire), and may be called more than once. A caller that waits
// for a key of somebody else's gets ErrClosed; a request that a caller has under
// way is left to be answered, or to end with its context. The error is always
// nil.
func (kv *KV) Close() error {
	kv.closeOnce.Do(func() {
		close(kv.closing)
		kv.session.close()
	})
	return nil
}

// closed returns ErrClosed after Close has begun.
func (kv *KV) closed() error {
	select {
	case <-kv.closing:
		return ErrClosed
	default:
		return nil
	}
}

// Put writes a key. See clientv3.KV.
func (kv *KV) Put(ctx context.Context, key, val string, opts ...clientv3.OpOption) (*clientv3.PutResponse, error) {
	r, err := kv.write(ctx, clientv3.OpPut(key, val, opts...))
	return r.Put(), err
}

// Get reads keys. See clientv3.KV. A linearizable read of a single key is
// answered from memory if the key is owned; if nobody owns it, the read claims
// it. Every other read goes to etcd. An answer from memory waits for nothing, and so
// does not look at ctx: it is given also if ctx is over, where a plain client gives the
// error of ctx. The same holds for a transaction that is answered from memory.
func (kv *KV) Get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	if len(opts) == 0 {
		if r := kv.serve(key, shape{}); r != nil { // never once Close is done: no lease is live
			return r, nil
		}
	}
	if err := kv.closed(); err != nil {
		return nil, err
	}
	return kv.get(ctx, clientv3.OpGet(key, opts...))
}

// GetStream reads keys from etcd. See clientv3.KV. The stream must be read to its
// end, also after Close: two goroutines wait for that, ours and one of etcd's.
func (kv *KV) GetStream(ctx context.Context, key string, opts ...clientv3.OpOption) (clientv3.GetStreamChan, error) {
	if err := kv.closed(); err != nil {
		return nil, err
	}
	kv.cache.count.forwards[forKind].Add(1)
	stream, err := kv.etcd.GetStream(ctx, key, opts...)
	if err != nil {
		return nil, err
	}
	return kv.session.observed(stream), nil
}

// Delete deletes a key or a range of keys. See clientv3.KV. A range that
// covers the claim prefix leaves the claims alone.
func (kv *KV) Delete(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.DeleteResponse, error) {
	r, err := kv.write(ctx, clientv3.OpDelete(key, opts...))
	return r.Del(), err
}

// Compact compacts etcd's history. See clientv3.KV.
func (kv *KV) Compact(ctx context.Context, rev int64, opts ...clientv3.CompactOption) (*clientv3.CompactResponse, error) {
	if err := kv.closed(); err != nil {
		return nil, err
	}
	resp, err := kv.etcd.Compact(ctx, rev, opts...)
	if err == nil {
		kv.cache.observe(resp.Header)
	}
	return resp, err
}

// Do applies a single operation. See clientv3.KV.
func (kv *KV) Do(ctx context.Context, op clientv3.Op) (clientv3.OpResponse, error) {
	if err := kv.closed(); err != nil {
		return clientv3.OpResponse{}, err
	}
	switch {
	case op.IsGet():
		r, err := kv.get(ctx, op)
		if err != nil {
			return clientv3.OpResponse{}, err
		}
		return r.OpResponse(), nil
	case op.IsPut(), op.IsDelete():
		return kv.write(ctx, op)
	case op.IsTxn():
		cmps, then, els := op.Txn()
		r, err := kv.commit(ctx, cmps, then, els)
		if err != nil {
			return clientv3.OpResponse{}, err
		}
		return r.OpResponse(), nil
	}
	return kv.etcd.Do(ctx, op)
}

// Txn creates a transaction. See clientv3.KV.
func (kv *KV) Txn(ctx context.Context) clientv3.Txn {
	return &txn{kv: kv, ctx: ctx}
}

// get reads: from memory, by claiming, or from etcd.
func (kv *KV) get(ctx context.Context, op clientv3.Op) (*clientv3.GetResponse, error) {
	key := string(op.KeyBytes())
	if !isPoint(&op) || kv.layout.reserved(key) {
		return kv.forward(ctx, op, forKind)
	}
	o := shapeOf(&op)
	if r := kv.serve(key, o); r != nil {
		return r, nil
	}
	if op.IsSerializable() {
		return kv.forward(ctx, op, forKind) // not worth a claim, which needs a quorum
	}
	begin := time.Now()
	cl, share, why := kv.session.claim(key, begin)
	if cl != nil {
		answered, err := kv.await(ctx, cl)
		if err != nil {
			return nil, err
		}
		kv.cache.count.claimTime.add(time.Since(begin))
		// Invariant: I8. The reply is shared only by readers who were there
		// before the claim was sent.
		if answered && share && cl.facts != nil {
			r := o.reply(key, cl.facts)
			setHeader(&r.hdr, cl.hdr, cl.hdr.Revision)
			return (*clientv3.GetResponse)(&r.resp), nil
		}
		if r := kv.serve(key, o); r != nil {
			return r, nil
		}
		why = kv.cache.whyInVain(cl, time.Now())
	}
	return kv.forward(ctx, op, why)
}

// await waits for a claim until it is settled, and reports false if that takes
// too long: etcd may well answer a plain read.
func (kv *KV) await(ctx context.Context, cl *claim) (answered bool, err error) {
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case <-cl.done:
		return true, nil
	case <-t.C:
		kv.session.refuseQueued()
		return false, nil
	case <-ctx.Done():
		return false, ctx.Err()
	case <-kv.closing:
		return false, ErrClosed
	}
}

// serve answers a point read from memory, or returns nil.
//
// Invariants: I1, I10. The highest revision is loaded before the entry, and
// the clock is checked after it: at the instant when the entry was loaded, the
// key was owned, settled, under a live lease, and unchanged since up to then.
func (kv *KV) serve(key string, o shape) *clientv3.GetResponse {
	rev := kv.cache.seen.Load()
	s := kv.cache.lookup(key)
	if s == nil || !s.lease.live(time.Now()) {
		return nil
	}
	if kv.cache.count.hits.add()%sampled == 0 {
		kv.cache.count.hot.note(key)
	}
	r := o.reply(key, s)
	setHeader(&r.hdr, kv.cache.ident.Load(), max(rev, s.rev))
	return (*clientv3.GetResponse)(&r.resp)
}

// forward sends a read to etcd as it is.
func (kv *KV) forward(ctx context.Context, op clientv3.Op, why reason) (*clientv3.GetResponse, error) {
	kv.cache.count.forwards[why].Add(1)
	r, err := kv.etcd.Do(ctx, op)
	if err != nil {
		return nil, err
	}
	kv.cache.observe(r.Get().Header)
	if kvs := r.Get().Kvs; len(kvs) == 1 && isPoint(&op) {
		kv.cache.written(string(op.KeyBytes()), kvs[0].ModRevision, time.Now())
	}
	return r.Get(), nil
}

// write puts or deletes.
func (kv *KV) write(ctx context.Context, op clientv3.Op) (clientv3.OpResponse, error) {
	return kv.writeBy(ctx, op, kv.commit)
}

// writeBy puts or deletes as a transaction of one operation, which commit executes.
func (kv *KV) writeBy(ctx context.Context, op clientv3.Op, commit committer) (clientv3.OpResponse, error) {
	if err := kv.closed(); err != nil {
		return clientv3.OpResponse{}, err
	}
	if len(op.KeyBytes()) == 0 {
		return clientv3.OpResponse{}, rpctypes.ErrEmptyKey
	}
	r, err := commit(ctx, nil, []clientv3.Op{op}, nil)
	if err != nil {
		return clientv3.OpResponse{}, err
	}
	switch r0 := r.Responses[0].Response.(type) {
	case *etcdserverpb.ResponseOp_ResponsePut:
		r0.ResponsePut.Header = r.Header
		return (*clientv3.PutResponse)(r0.ResponsePut).OpResponse(), nil
	case *etcdserverpb.ResponseOp_ResponseDeleteRange:
		r0.ResponseDeleteRange.Header = r.Header
		return (*clientv3.DeleteResponse)(r0.ResponseDeleteRange).OpResponse(), nil
	}
	panic(fmt.Sprintf("leasing: etcd answered a write with %T", r.Responses[0].Response))
}
