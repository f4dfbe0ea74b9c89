package integration_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/etcd-leasing/leasing"
	"github.com/etcd-leasing/leasing/integration/etcdtest"
	linear "github.com/etcd-leasing/leasing/internal/history" // another test has the name
)

// Helpers of the tests under faults. They are used from several files, and
// their names begin with flt.

var fltDuration = flag.Duration("faults.duration", 3*time.Second, "how long a variation of TestLinearizable runs, at least; TestLinearizableUnderEverything runs for seven times as long")

const (
	fltPrefix = "leasing/"
	// fltPatience is how long anything may take that has to happen. It is no
	// measure of speed.
	fltPatience = 30 * time.Second
)

func fltContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), fltPatience)
	t.Cleanup(cancel)
	return ctx
}

// fltUntil waits until cond holds.
func fltUntil(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(fltPatience); !cond(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("in vain: %s", what)
		}
	}
}

// fltOpen returns a KV that is closed with the test, before its client is.
func fltOpen(t testing.TB, cl *clientv3.Client, ttl time.Duration) *leasing.KV {
	t.Helper()
	kv, err := leasing.New(fltContext(t), cl, leasing.Config{Prefix: fltPrefix, TTL: ttl})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := kv.Close(); err != nil {
			t.Error(err)
		}
	})
	return kv
}

// fltOwn reads key through kv, whose client sent counts, until a read needs no
// request.
func fltOwn(t testing.TB, kv clientv3.KV, sent *etcdtest.Counter, key string) {
	t.Helper()
	ctx := fltContext(t)
	fltUntil(t, fmt.Sprintf("%q is owned", key), func() bool {
		t.Helper()
		before := sent.KV()
		if _, err := kv.Get(ctx, key); err != nil {
			t.Fatalf("%q is not owned: %v", key, err)
		}
		return sent.KV() == before
	})
}

// fltGet returns the value of key, or "" if there is none.
func fltGet(t testing.TB, kv clientv3.KV, key string) string {
	t.Helper()
	resp, err := kv.Get(fltContext(t), key)
	if err != nil {
		t.Fatalf("get %q: %v", key, err)
	}
	if len(resp.Kvs) == 0 {
		return ""
	}
	return string(resp.Kvs[0].Value)
}

func fltPut(t testing.TB, kv clientv3.KV, key, val string) {
	t.Helper()
	if _, err := kv.Put(fltContext(t), key, val); err != nil {
		t.Fatalf("put %q: %v", key, err)
	}
}

// fltAgree fails the test unless all read val, or nothing if that is "".
func fltAgree(t testing.TB, key, val string, kvs ...clientv3.KV) {
	t.Helper()
	for i, kv := range kvs {
		if got := fltGet(t, kv, key); got != val {
			t.Errorf("reader %d sees %q = %q, not %q", i, key, got, val)
		}
	}
}

// fltClaim returns the claim of key as a plain client sees it, or nil.
func fltClaim(t testing.TB, plain clientv3.KV, key string) *mvccpb.KeyValue {
	t.Helper()
	resp, err := plain.Get(fltContext(t), fltPrefix+key)
	if err != nil {
		t.Fatal(err)
	}
	if len(resp.Kvs) == 0 {
		return nil
	}
	return resp.Kvs[0]
}

func fltClaims(t testing.TB, plain clientv3.KV) int64 {
	t.Helper()
	resp, err := plain.Get(fltContext(t), fltPrefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		t.Fatal(err)
	}
	return resp.Count
}

// fltAttempts counts what a client tries to send, streams that cannot be
// opened included.
type fltAttempts struct {
	mu sync.Mutex
	n  map[string]int
}

func (a *fltAttempts) add(method string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.n == nil {
		a.n = make(map[string]int)
	}
	a.n[method[strings.LastIndexByte(method, '/')+1:]]++
}

func (a *fltAttempts) counts() map[string]int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return maps.Clone(a.n)
}

func (a *fltAttempts) option(cfg *clientv3.Config) {
	cfg.DialOptions = append(cfg.DialOptions,
		grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			a.add(method)
			return invoke(ctx, method, req, reply, cc, opts...)
		}),
		grpc.WithChainStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			a.add(method)
			return open(ctx, desc, cc, method, opts...)
		}))
}

// fltMayWrite reports whether some branch of req writes key.
func fltMayWrite(req *pb.TxnRequest, key string) bool {
	for _, op := range slices.Concat(req.Success, req.Failure) {
		switch r := op.Request.(type) {
		case *pb.RequestOp_RequestPut:
			if string(r.RequestPut.Key) == key {
				return true
			}
		case *pb.RequestOp_RequestDeleteRange:
			d := r.RequestDeleteRange
			if string(d.Key) == key || string(d.Key) < key && key < string(d.RangeEnd) {
				return true
			}
		case *pb.RequestOp_RequestTxn:
			if fltMayWrite(r.RequestTxn, key) {
				return true
			}
		}
	}
	return false
}

// fltWrites counts the requests of a client that may write one key.
type fltWrites struct {
	n  atomic.Int64
	mu sync.Mutex // guards the rest

	key    string
	before func(n int64)
}

// watch starts to count for key. before is called before each request is
// sent, with the count.
func (w *fltWrites) watch(key string, before func(n int64)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.key, w.before = key, before
	w.n.Store(0)
}

func (w *fltWrites) option() etcdtest.ClientOption {
	return etcdtest.Intercept(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		w.mu.Lock()
		key, before := w.key, w.before
		w.mu.Unlock()
		if r, ok := req.(*pb.TxnRequest); ok && key != "" && fltMayWrite(r, key) {
			before(w.n.Add(1))
		}
		return invoke(ctx, method, req, reply, cc, opts...)
	})
}

// fltHistory is what clients did to a few keys, and what etcd says of it.
type fltHistory struct {
	t      *testing.T
	keys   []string
	began  time.Time
	clock  *atomic.Int64 // counts calls and returns, in all processes
	values atomic.Int64
	told   atomic.Int64 // the revision up to which the oracle has told

	foreign string // what values begin with that may be applied more than once

	mu     sync.Mutex
	events map[string][]*clientv3.Event
	writes map[string][]linear.Write
	reads  map[string][]linear.Read
	gets   int // point reads through KVs that were answered
	local  int // those that were not forwarded to etcd
	failed int // writes of unknown outcome
}

// fltForwarded is the key of a context's *atomic.Bool, which is set when a
// request under that context is sent.
type fltForwarded struct{}

// fltNotices is an option of the clients of KVs whose local reads are counted.
func fltNotices(cfg *clientv3.Config) {
	etcdtest.Intercept(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		if b, ok := ctx.Value(fltForwarded{}).(*atomic.Bool); ok {
			b.Store(true)
		}
		return invoke(ctx, method, req, reply, cc, opts...)
	})(cfg)
}

// fltKeys are what the clients of a history read and write. The last two are
// always put together. Claims lie between them and the others.
var fltKeys = []string{"a", "b", "c", "pair/1", "pair/2"}

const fltEnd = "~end" // marks the end of a history

// fltRecord starts a history, with an oracle that watches through plain from
// the first revision on.
func fltRecord(t *testing.T, plain *clientv3.Client) *fltHistory {
	h := &fltHistory{
		t: t, keys: fltKeys, began: time.Now(), clock: new(atomic.Int64),
		events: make(map[string][]*clientv3.Event),
		writes: make(map[string][]linear.Write),
		reads:  make(map[string][]linear.Read),
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var wg sync.WaitGroup
	t.Cleanup(func() { cancel(); wg.Wait() })
	oracle := plain.Watch(ctx, "", clientv3.WithFromKey(), clientv3.WithRev(1))
	wg.Go(func() {
		for resp := range oracle {
			if err := resp.Err(); err != nil && ctx.Err() == nil {
				t.Errorf("the oracle has lost sight: %v", err)
			}
			h.mu.Lock()
			for _, ev := range resp.Events {
				key := string(ev.Kv.Key)
				h.events[key] = append(h.events[key], ev)
				h.told.Store(ev.Kv.ModRevision)
			}
			h.mu.Unlock()
		}
	})
	return h
}

func (h *fltHistory) now() int64 { return h.clock.Add(1) }

// read does one read through kv: of a point, of a pair in a transaction, or of
// a range. It returns the revision in the header.
func (h *fltHistory) read(ctx context.Context, rng *rand.Rand, name string, kv clientv3.KV) (int64, error) {
	key := h.keys[rng.IntN(len(h.keys))]
	kind := rng.IntN(40)
	call := h.now()
	switch {
	case kind < 36:
		var forwarded atomic.Bool
		resp, err := kv.Get(context.WithValue(ctx, fltForwarded{}, &forwarded), key)
		if err != nil {
			return 0, err
		}
		h.saw(name, call, resp.Header.Revision, resp.Kvs, key)
		if name != "plain" {
			h.mu.Lock()
			h.gets++
			if !forwarded.Load() {
				h.local++
			}
			h.mu.Unlock()
		}
		return resp.Header.Revision, nil
	case kind < 39:
		resp, err := kv.Txn(ctx).Then(clientv3.OpGet("pair/1"), clientv3.OpGet("pair/2")).Commit()
		if err != nil {
			return 0, err
		}
		var half [2]string
		for i, r := range resp.Responses {
			kvs := r.GetResponseRange().Kvs
			h.saw(name, call, resp.Header.Revision, kvs, h.keys[3+i])
			if len(kvs) > 0 {
				half[i] = string(kvs[0].Value[2:])
			}
		}
		if half[0] != half[1] {
			h.t.Errorf("%s read half of a transaction: %q", name, half)
		}
		return resp.Header.Revision, nil
	}
	resp, err := kv.Get(ctx, "a", clientv3.WithRange("d"))
	if err != nil {
		return 0, err
	}
	h.saw(name, call, resp.Header.Revision, resp.Kvs, h.keys[:3]...)
	return resp.Header.Revision, nil
}

// write does one write through kv. open allows deletions of everything.
func (h *fltHistory) write(ctx context.Context, rng *rand.Rand, name string, kv clientv3.KV, open bool) (int64, error) {
	key := h.keys[rng.IntN(3)]
	val := fmt.Sprint(name, "-", h.values.Add(1))
	kind := rng.IntN(20)
	if kind == 19 && !open {
		kind = 0
	}
	call := h.now()
	switch {
	case kind < 5:
		return h.put(ctx, name, kv, key, val)
	case kind < 7:
		resp, err := kv.Put(ctx, key, val, clientv3.WithPrevKV())
		if err == nil {
			h.found(name, call, resp.Header.Revision, slices.DeleteFunc([]*mvccpb.KeyValue{resp.PrevKv}, isNil), key)
		}
		return h.wrote(name, call, val, (*pb.PutResponse)(resp).GetHeader(), err, key)
	case kind < 10:
		resp, err := kv.Delete(ctx, key, clientv3.WithPrevKV())
		return h.deleted(name, call, resp, err, key)
	case kind < 12:
		resp, err := kv.Delete(ctx, "b", clientv3.WithRange("d"), clientv3.WithPrevKV())
		return h.deleted(name, call, resp, err, "b", "c")
	case kind < 15:
		resp, err := kv.Txn(ctx).Then(clientv3.OpPut("pair/1", "1-"+val), clientv3.OpPut("pair/2", "2-"+val)).Commit()
		rev, err1 := h.wrote(name, call, "1-"+val, (*pb.TxnResponse)(resp).GetHeader(), err, "pair/1")
		_, err2 := h.wrote(name, call, "2-"+val, (*pb.TxnResponse)(resp).GetHeader(), err, "pair/2")
		return rev, errors.Join(err1, err2)
	case kind < 19:
		// Reads one key, and puts one of two, as its version decides.
		other := h.keys[rng.IntN(3)]
		resp, err := kv.Txn(ctx).
			If(clientv3.Compare(clientv3.Version(key), ">", int64(rng.IntN(3)))).
			Then(clientv3.OpGet(key), clientv3.OpPut(other, "t-"+val)).
			Else(clientv3.OpGet(key), clientv3.OpPut(key, "e-"+val)).
			Commit()
		if err != nil {
			_, err1 := h.wrote(name, call, "t-"+val, nil, err, other)
			_, err2 := h.wrote(name, call, "e-"+val, nil, err, key)
			return 0, errors.Join(err1, err2)
		}
		h.found(name, call, resp.Header.Revision, resp.Responses[0].GetResponseRange().Kvs, key)
		if resp.Succeeded {
			return h.wrote(name, call, "t-"+val, resp.Header, nil, other)
		}
		return h.wrote(name, call, "e-"+val, resp.Header, nil, key)
	}
	resp, err := kv.Delete(ctx, "", clientv3.WithFromKey(), clientv3.WithPrevKV())
	return h.deleted(name, call, resp, err, h.keys...)
}

// put does one put through kv, and returns its revision.
func (h *fltHistory) put(ctx context.Context, name string, kv clientv3.KV, key, val string) (int64, error) {
	call := h.now()
	resp, err := kv.Put(ctx, key, val)
	return h.wrote(name, call, val, (*pb.PutResponse)(resp).GetHeader(), err, key)
}

func (h *fltHistory) localReads() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.local
}

func isNil(kv *mvccpb.KeyValue) bool { return kv == nil }

// saw notes what the reply to a read said of keys. That is as of the revision
// in its header (I10).
func (h *fltHistory) saw(name string, call, rev int64, kvs []*mvccpb.KeyValue, keys ...string) {
	h.note(linear.Read{Client: name, Call: call, Header: rev, AsOf: true}, kvs, keys...)
}

// found notes what the reply to a write said of keys: the header is that of
// the write.
func (h *fltHistory) found(name string, call, rev int64, kvs []*mvccpb.KeyValue, keys ...string) {
	h.note(linear.Read{Client: name, Call: call, Header: rev}, kvs, keys...)
}

func (h *fltHistory) note(r linear.Read, kvs []*mvccpb.KeyValue, keys ...string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r.Ret = h.now()
	for _, key := range keys {
		r.KV = nil
		for _, kv := range kvs {
			if string(kv.Key) == key {
				r.KV = kv
			}
		}
		h.reads[key] = append(h.reads[key], r)
	}
}

// add notes a read that another process did.
func (h *fltHistory) add(key string, r linear.Read) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.reads[key] = append(h.reads[key], r)
}

// wrote notes a put.
func (h *fltHistory) wrote(name string, call int64, val string, hdr *pb.ResponseHeader, err error, key string) (int64, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err != nil {
		h.failed++
	}
	h.writes[key] = append(h.writes[key], linear.Write{
		Client: name, Call: call, Ret: h.now(), Value: val, Err: err, Rev: hdr.GetRevision(),
	})
	return hdr.GetRevision(), err
}

// deleted notes a deletion of keys.
func (h *fltHistory) deleted(name string, call int64, resp *clientv3.DeleteResponse, err error, keys ...string) (int64, error) {
	if err != nil {
		h.mu.Lock()
		h.failed++
		h.mu.Unlock()
		return 0, err
	}
	h.found(name, call, resp.Header.Revision, resp.PrevKvs, keys...)
	h.mu.Lock()
	defer h.mu.Unlock()
	if n := int64(len(resp.PrevKvs)); n != resp.Deleted {
		h.t.Errorf("%s deleted %d keys and got %d", name, resp.Deleted, n)
	}
	for _, kv := range resp.PrevKvs {
		h.writes[string(kv.Key)] = append(h.writes[string(kv.Key)], linear.Write{
			Client: name, Call: call, Ret: h.now(), Delete: true, Changed: true, Rev: resp.Header.Revision,
		})
	}
	return resp.Header.Revision, nil
}

// fltWriting is for how long in each second there are writes. All writers are
// quiet at the same times, in which keys get owned.
const fltWriting = 200 * time.Millisecond

// writing returns when the next time to write begins.
func (h *fltHistory) writing() time.Time {
	return h.began.Add((time.Since(h.began)/time.Second + 1) * time.Second)
}

// fltLoad is who does what to the keys of a history.
type fltLoad struct {
	name    string
	kv      clientv3.KV
	readers int
	writers int
	open    bool          // deletions of everything, too
	timeout time.Duration // an operation gets up to so much
}

// run has a load done until ctx ends. The headers that each worker sees must
// never run backwards.
func (h *fltHistory) run(ctx context.Context, wg *sync.WaitGroup, l fltLoad) {
	for i := range l.readers + l.writers {
		rng := rand.New(rand.NewPCG(rand.Uint64(), uint64(i)))
		wg.Go(func() {
			last := int64(0)
			for ctx.Err() == nil {
				opCtx, cancel := context.WithTimeout(ctx, 10*time.Millisecond+rand.N(l.timeout))
				var rev int64
				var err error
				pause := rand.N(2 * time.Millisecond)
				if i < l.readers {
					rev, err = h.read(opCtx, rng, l.name, l.kv)
				} else {
					rev, err = h.write(opCtx, rng, l.name, l.kv, l.open)
					pause = rand.N(30 * time.Millisecond)
					if until := time.Until(h.writing()); until < time.Second-fltWriting {
						pause = until
					}
				}
				cancel()
				if err != nil && ctx.Err() == nil {
					pause += 5 * time.Millisecond
				} else if err == nil {
					if rev < last {
						h.t.Errorf("%s: header revision %d after %d", l.name, rev, last)
					}
					last = rev
				}
				select {
				case <-time.After(pause):
				case <-ctx.Done():
				}
			}
		})
	}
}

// check has every key read once more by each of kvs and then judges the
// history.
func (h *fltHistory) check(plain *clientv3.Client, kvs map[string]clientv3.KV) {
	h.t.Helper()
	ctx := fltContext(h.t)
	for name, kv := range kvs {
		for _, key := range h.keys {
			call := h.now()
			var resp *clientv3.GetResponse
			fltUntil(h.t, name+" heals", func() (ok bool) {
				var err error
				resp, err = kv.Get(ctx, key)
				return err == nil
			})
			h.saw(name, call, resp.Header.Revision, resp.Kvs, key)
		}
	}
	end, err := plain.Put(ctx, fltEnd, "")
	if err != nil {
		h.t.Fatal(err)
	}
	fltUntil(h.t, "the oracle has told everything", func() bool { return h.told.Load() >= end.Header.Revision })
	h.mu.Lock()
	defer h.mu.Unlock()
	h.distinguishLocked()
	events, reads, writes := 0, 0, 0
	var all []linear.Key
	for _, key := range h.keys {
		k := linear.Key{Name: key, Events: h.events[key], Writes: h.writes[key], Reads: h.reads[key]}
		if err := linear.Check(k); err != nil {
			h.t.Error(err)
		}
		all = append(all, k)
		events, reads, writes = events+len(h.events[key]), reads+len(h.reads[key]), writes+len(h.writes[key])
	}
	if err := linear.Check(all...); err != nil {
		h.t.Errorf("all keys together: %v", err)
	}
	h.t.Logf("%d events, %d reads, %d writes, of which %d are of unknown outcome", events, reads, writes, h.failed)
	if events == 0 || reads == 0 {
		h.t.Error("nothing has happened")
	}
}

// distinguishLocked rewrites the values of foreign writers, which may have
// applied them more than once, so that each is unique: in the events and in
// what was read.
func (h *fltHistory) distinguishLocked() {
	if h.foreign == "" {
		return
	}
	unique := func(kv *mvccpb.KeyValue) *mvccpb.KeyValue {
		if kv == nil || !strings.HasPrefix(string(kv.Value), h.foreign) {
			return kv
		}
		kv = proto.Clone(kv).(*mvccpb.KeyValue)
		kv.Value = fmt.Appendf(kv.Value, "@%d", kv.ModRevision)
		return kv
	}
	for _, key := range h.keys {
		for i, ev := range h.events[key] {
			h.events[key][i] = &clientv3.Event{Type: ev.Type, Kv: unique(ev.Kv)}
		}
		for i := range h.reads[key] {
			h.reads[key][i].KV = unique(h.reads[key][i].KV)
		}
	}
}
