package leasing

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"
)

// tiny is an etcd with just what the cache has to do with: some keys, their
// claims, leases, and one watch on the claims.
type tiny struct {
	rev     int64
	data    map[string]*mvccpb.KeyValue
	claims  map[string]*claimRecord
	leases  map[clientv3.LeaseID]bool
	events  []tinyEvent
	history map[string][]*mvccpb.KeyValue // nil: deleted, at the revision of the same place in changed
	changed map[string][]int64

	gone, asked uint64 // claims that were not the stranger's
}

type tinyEvent struct {
	claimRecord
	rev              int64
	deleted, created bool
}

func (e *tiny) set(key string, kv *mvccpb.KeyValue) {
	if kv != nil {
		kv.Key, kv.ModRevision, kv.CreateRevision, kv.Version = []byte(key), e.rev, e.rev, 1
		if old := e.data[key]; old != nil {
			kv.CreateRevision, kv.Version = old.CreateRevision, old.Version+1
		}
		e.data[key] = kv
	} else {
		delete(e.data, key)
	}
	e.history[key] = append(e.history[key], kv)
	e.changed[key] = append(e.changed[key], e.rev)
}

func (e *tiny) get(key string) *mvccpb.KeyValue {
	if e.data[key] == nil {
		return nil
	}
	return proto.Clone(e.data[key]).(*mvccpb.KeyValue)
}

// at is what key was at revision rev.
func (e *tiny) at(key string, rev int64) *mvccpb.KeyValue {
	var kv *mvccpb.KeyValue
	for i, changed := range e.changed[key] {
		if changed <= rev {
			kv = e.history[key][i]
		}
	}
	return kv
}

func (e *tiny) claim(key string, lease clientv3.LeaseID) {
	e.claims[key] = &claimRecord{key: key, grant: e.rev, lease: lease}
	e.events = append(e.events, tinyEvent{claimRecord: *e.claims[key], rev: e.rev, created: true})
}

func (e *tiny) revoke(key string) {
	if c := e.claims[key]; c != nil && !c.revoked {
		e.rev++
		c.revoked = true
		if c.lease != stranger {
			e.asked++
		}
		e.events = append(e.events, tinyEvent{claimRecord: *c, rev: e.rev})
	}
}

func (e *tiny) unclaim(key string) {
	if e.claims[key].lease != stranger {
		e.gone++
	}
	e.events = append(e.events, tinyEvent{claimRecord: *e.claims[key], rev: e.rev, deleted: true})
	delete(e.claims, key)
}

func (e *tiny) listing() []claimRecord {
	var out []claimRecord
	for _, c := range e.claims {
		out = append(out, *c)
	}
	slices.SortFunc(out, func(a, b claimRecord) int { return strings.Compare(a.key, b.key) })
	return out
}

func (e *tiny) header() *etcdserverpb.ResponseHeader {
	return &etcdserverpb.ResponseHeader{MemberId: 1, Revision: e.rev}
}

// stranger is the lease of everybody else.
const stranger clientv3.LeaseID = 999

// walk is a cache, what stands in for its session, a tiny etcd, and a network
// between them that reorders, delays and loses what it can.
type walk struct {
	t    *testing.T
	rng  *rand.Rand
	etcd *tiny
	c    *cache
	now  time.Time

	net      []func() // requests and replies under way, in no order
	reliable bool     // nothing is lost any more

	ears   bool
	lease  *lease
	ids    map[clientv3.LeaseID]bool
	lastID clientv3.LeaseID
	writes int
	idle   time.Duration
	others int    // how many steps in a hundred are strangers'
	what   string // the latest step
	served int
	stats  map[string]int
}

// walkValue is how long a large value is, at least.
const walkValue = 200

var walkKeys = []string{"a", "b", "c", "d"}

func newWalk(t *testing.T, seed uint64) *walk {
	w := &walk{
		t: t, rng: rand.New(rand.NewPCG(seed, 7)), c: newCache([]int{1, defaultMaxKeys, 2, defaultMaxKeys}[seed%4]), now: time.Now(), ears: true,
		ids: make(map[clientv3.LeaseID]bool), stats: make(map[string]int),
		etcd: &tiny{
			rev: 1, data: make(map[string]*mvccpb.KeyValue), claims: make(map[string]*claimRecord),
			leases:  map[clientv3.LeaseID]bool{stranger: true},
			history: make(map[string][]*mvccpb.KeyValue), changed: make(map[string][]int64),
		},
	}
	if seed%2 == 1 {
		w.idle = 2 * time.Second
	}
	if seed%3 == 0 { // one key with a large value and another
		w.c.maxBytes = 2*keyOverhead + walkValue + 10
	}
	w.grantLease()
	return w
}

func (w *walk) grantLease() {
	w.lastID++
	w.lease = newLease(w.lastID, w.now, 10000*time.Hour) // it ends when the walk says so
	w.ids[w.lastID], w.etcd.leases[w.lastID] = true, true
}

func (w *walk) key() string             { return walkKeys[w.rng.IntN(len(walkKeys))] }
func (w *walk) one(in int) bool         { return w.rng.IntN(in) == 0 }
func (w *walk) ours(r claimRecord) bool { return w.ids[r.lease] }

// call sends a request. apply is what etcd does with it, giving what the
// client does with the reply; gaveUp is what it does if there is none. The
// request may be applied after that, or never.
func (w *walk) call(apply func() (reply func()), gaveUp func()) {
	settled := false
	once := func(f func()) func() {
		return func() {
			if !settled {
				settled = true
				f()
			}
		}
	}
	lost := !w.reliable && w.one(8)
	if lost || !w.reliable && w.one(8) {
		w.net = append(w.net, once(gaveUp))
	}
	if lost && w.one(2) {
		return
	}
	w.net = append(w.net, func() {
		if reply := apply(); !lost {
			w.net = append(w.net, once(reply))
		}
	})
}

// ---- Our client

func (w *walk) read() {
	key := w.key()
	if s := w.c.lookup(key); s != nil && s.lease.live(w.now) {
		w.served++
		return
	}
	from := w.etcd.rev
	cl, begun, share := w.c.join(key, w.now)
	if cl == nil {
		return
	}
	if begun {
		w.net = append(w.net, func() { w.sendClaim(cl) })
	}
	if !share {
		return
	}
	w.net = append(w.net, func() { w.shared(cl, from) })
}

// bulk has some keys claimed before they are read, or given back.
func (w *walk) bulk() {
	keys := slices.DeleteFunc(slices.Clone(walkKeys), func(string) bool { return w.one(3) })
	if w.one(2) {
		w.yield(w.c.release(keys).yields)
		return
	}
	for _, cl := range w.c.want(keys, w.now).begun {
		w.net = append(w.net, func() { w.sendClaim(cl) })
	}
}

// shared checks what a reader gets that called at revision from.
func (w *walk) shared(cl *claim, from int64) {
	select {
	case <-cl.done:
	default:
		w.net = append(w.net, func() { w.shared(cl, from) })
		return
	}
	if cl.facts == nil {
		return
	}
	w.stats["shared"]++
	if cl.facts.rev < from {
		w.t.Fatalf("%s: a reader that called at revision %d shares the facts of %d (I8)", cl.key, from, cl.facts.rev)
	}
	if !sameAs(cl.facts, w.etcd.at(cl.key, cl.facts.rev)) {
		w.t.Fatalf("%s: readers are told %s, which was never so", cl.key, facts(cl.facts))
	}
}

func (w *walk) sendClaim(cl *claim) {
	if !w.ears || !w.lease.live(w.now) {
		w.yield(w.c.settleClaim(cl, claimReply{outcome: refused}, w.now))
		return
	}
	l := w.lease
	w.c.send([]*claim{cl}, l, claimsPerLease)
	w.call(func() func() {
		r := claimReply{outcome: refused}
		if !w.etcd.leases[l.id] {
			return func() {
				w.over(l)
				w.yield(w.c.settleClaim(cl, r, w.now))
			}
		}
		r.kv = w.etcd.get(cl.key)
		if other := w.etcd.claims[cl.key]; other != nil {
			seen := *other
			r.other = &seen
		} else if r.kv.GetLease() == 0 {
			w.etcd.rev++
			w.etcd.claim(cl.key, l.id)
			r.outcome = applied
		}
		r.hdr = w.etcd.header()
		return func() {
			r.ours = r.other != nil && w.ours(*r.other)
			w.stats[fmt.Sprintf("claim %d", r.outcome)]++
			w.yield(w.c.settleClaim(cl, r, w.now))
		}
	}, func() {
		w.stats["claim 0"]++
		w.yield(w.c.settleClaim(cl, claimReply{outcome: unknown}, w.now))
	})
}

func (w *walk) yield(ys []yield) {
	for _, y := range ys {
		w.net = append(w.net, func() { w.sendYield(y) })
	}
}

func (w *walk) sendYield(y yield) {
	if s := w.published(y.key); s != nil && y.grant != 0 && w.c.entries.get(y.key).grant == y.grant {
		w.t.Fatalf("%s@%d is served while its yield is under way (I7)", y.key, y.grant)
	}
	w.stats["yields"]++
	w.call(func() func() {
		there := w.etcd.claims[y.key]
		deleted := y.grant != 0 && there != nil && there.grant == y.grant
		if y.grant == 0 {
			if there != nil && there.lease == y.lease.id {
				grant := there.grant
				return func() { w.yield(w.c.found(y, grant)) }
			}
		} else if deleted {
			w.etcd.rev++
			w.etcd.unclaim(y.key)
		}
		rev := w.etcd.rev
		return func() { w.c.yielded(y, rev, deleted) }
	}, func() { w.sendYield(y) })
}

// write writes some keys, perhaps with a range of them.
func (w *walk) write() {
	points := slices.DeleteFunc(slices.Clone(walkKeys), func(string) bool { return !w.one(3) })
	var ranges []keyRange
	if w.one(4) {
		ranges = []keyRange{{"b", "d"}} // a point in it is put after the range was deleted
	}
	tok, busy := w.c.begin(points, ranges, ranges, w.one(3))
	if busy != nil || len(points)+len(ranges) == 0 {
		if tok != nil {
			w.c.settle(tok, settlement{outcome: refused})
		}
		return
	}
	if len(ranges) == 0 {
		w.sendWrite(tok, points, nil, 0)
		return
	}
	w.call(func() func() {
		listing, rev := w.etcd.listing(), w.etcd.rev
		return func() {
			for _, c := range listing {
				if contained(c.key, ranges) && !w.ours(c) {
					w.net = append(w.net, func() { w.etcd.revoke(c.key) })
					w.yield(w.c.settle(tok, settlement{outcome: refused}))
					return
				}
			}
			w.sendWrite(tok, points, ranges, rev)
		}
	}, func() { w.yield(w.c.settle(tok, settlement{outcome: refused})) })
}

func (w *walk) sendWrite(tok *write, points []string, ranges []keyRange, listed int64) {
	w.writes++
	value, leased, deleting, reading, large := fmt.Sprint(w.writes), w.one(12), w.one(4), !w.one(5), w.one(4)
	size := walkValue * (1 + w.rng.IntN(5)) // the largest does not fit at all
	grants := make([]int64, len(points))
	for i, p := range tok.points {
		grants[i] = p.grant
	}
	w.call(func() func() {
		if claims := w.guard(points, grants, ranges, listed); claims != nil {
			s := settlement{outcome: refused, hdr: w.etcd.header()}
			if len(points) > 0 {
				s.claims = claims
			}
			return func() {
				w.stats["write refused"]++
				w.yield(w.c.settle(tok, s))
			}
		}
		w.etcd.rev++
		w.wipe(ranges)
		s := settlement{outcome: applied, hdr: w.etcd.header()}
		for i, key := range points {
			w.mayWrite(key)
			kv := &mvccpb.KeyValue{Value: []byte(value)}
			if large {
				kv.Value = append(kv.Value, make([]byte, size)...)
			}
			if leased {
				kv.Lease = int64(stranger)
			}
			if deleting {
				kv = nil
			}
			w.etcd.set(key, kv)
			s.read = append(s.read, readBack{done: reading && grants[i] != 0, kv: w.etcd.get(key)})
		}
		return func() {
			w.stats["write applied"]++
			w.yield(w.c.settle(tok, s))
		}
	}, func() {
		w.stats["write unknown"]++
		w.yield(w.c.settle(tok, settlement{outcome: unknown}))
	})
}

// guard returns the claims of the points if the write is refused, else nil.
func (w *walk) guard(points []string, grants []int64, ranges []keyRange, listed int64) []*claimRecord {
	claims, ok := make([]*claimRecord, len(points)), true
	for i, key := range points {
		grant := int64(0)
		if c := w.etcd.claims[key]; c != nil {
			seen := *c
			claims[i], grant = &seen, c.grant
		}
		ok = ok && grant == grants[i]
	}
	for _, c := range w.etcd.claims {
		ok = ok && !(contained(c.key, ranges) && c.grant > listed)
	}
	if ok {
		return nil
	}
	return claims
}

func (w *walk) wipe(ranges []keyRange) {
	for _, key := range walkKeys {
		if contained(key, ranges) {
			w.mayWrite(key)
			w.etcd.set(key, nil)
		}
	}
}

// mayWrite checks that no stranger may be serving key.
func (w *walk) mayWrite(key string) {
	if c := w.etcd.claims[key]; c != nil && c.lease == stranger {
		w.t.Fatalf("%s is written under a stranger's claim (I5)", key)
	}
}

// over is the end of a lease for us: at once for readers, then its entries,
// then its claims, these two in either order.
func (w *walk) over(l *lease) {
	if l != w.lease {
		return
	}
	l.end()
	w.grantLease()
	w.net = append(w.net,
		func() { w.c.dropLease(l) },
		func() {
			w.etcd.leases[l.id] = false
			w.etcd.rev++
			for _, c := range w.etcd.listing() {
				if c.lease == l.id {
					w.etcd.unclaim(c.key)
				}
			}
			w.net = append(w.net, func() { delete(w.ids, l.id) })
		})
}

// ---- The watch

func (w *walk) event() {
	if !w.ears || len(w.etcd.events) == 0 {
		return
	}
	ev := w.etcd.events[0]
	w.etcd.events = w.etcd.events[1:]
	switch ours := w.ours(ev.claimRecord); {
	case ev.deleted:
		w.c.deleted(ev.key, ev.rev)
	case ev.revoked:
		w.yield(w.c.revoked(ev.claimRecord, ours, w.now))
	case ours && ev.created:
		w.yield(w.c.created(ev.claimRecord))
	}
}

// gap loses what the watch had to say. Then the claims are listed.
func (w *walk) gap() {
	if !w.ears {
		return
	}
	w.ears = false
	w.net = append(w.net, func() {
		listing, rev := w.etcd.listing(), w.etcd.rev
		w.etcd.events = nil // what comes from here on is heard
		w.net = append(w.net, func() {
			w.yield(w.c.reconcile(listing, rev, w.ours, w.now))
			w.ears = true
		})
	})
}

// ---- Everybody else

func (w *walk) strangers() {
	key := w.key()
	c, e := w.etcd.claims[key], w.etcd
	switch {
	case c == nil && w.one(3):
		if e.data[key].GetLease() == 0 {
			e.rev++
			e.claim(key, stranger)
		}
	case c == nil || c.lease == stranger && w.one(2):
		e.rev++
		w.writes++
		kv := &mvccpb.KeyValue{Value: fmt.Append(nil, w.writes)}
		if w.one(4) {
			kv = nil
		} else if w.one(8) {
			kv.Lease = int64(stranger)
		}
		e.set(key, kv)
	case c.lease == stranger:
		e.rev++
		e.unclaim(key)
	default:
		e.revoke(key)
	}
	if kv := e.data[key]; kv.GetLease() != 0 && w.one(2) {
		e.rev++ // its lease expires, and nobody is asked
		e.set(key, nil)
	}
}

// ---- The walk

func (w *walk) step() {
	w.now = w.now.Add(time.Duration(w.rng.IntN(300)) * time.Millisecond)
	switch n := w.rng.IntN(100); {
	case n < 40 && len(w.net) > 0:
		w.what = "network"
		i := w.rng.IntN(len(w.net))
		f := w.net[i]
		w.net = slices.Delete(w.net, i, i+1)
		f()
	case n < 60:
		w.what = "event"
		w.event()
	case n < 60+w.others:
		w.what = "strangers"
		w.strangers()
	case n < 92:
		w.what = "read"
		w.read()
	case n < 93:
		w.what = "bulk"
		w.bulk()
	case n < 98:
		w.what = "write"
		for range pick(w.one(4), 3, 1) {
			w.write()
		}
	case n < 99:
		w.what = "gap"
		w.gap()
	case w.one(2):
		w.what = "lease"
		w.over(w.lease)
	}
	w.check()
	if w.idle > 0 {
		w.what = "sweep"
		ys, _ := w.c.sweep(w.now, w.idle)
		w.stats["idle"] += len(ys)
		w.yield(ys)
		w.check()
	}
}

// check holds the promise: what is served is what etcd would answer.
func (w *walk) check() {
	if bad := inconsistency(w.c); bad != "" {
		w.t.Fatalf("after %s: %s", w.what, bad)
	}
	if n := w.c.count.revokesAnswered.Load(); n > w.etcd.asked {
		w.t.Fatalf("after %s: %d REVOKEs are counted, %d were sent", w.what, n, w.etcd.asked)
	}
	for _, key := range walkKeys {
		s := w.published(key)
		if s == nil || !s.lease.live(w.now) {
			continue
		}
		kv, c := w.etcd.data[key], w.etcd.claims[key]
		if !sameAs(s, kv) {
			w.t.Fatalf("after %s: %s is served as %s, etcd has %v", w.what, key, facts(s), kv)
		}
		if kv.GetLease() != 0 {
			w.t.Fatalf("after %s: %s is served, but can vanish with lease %d (I4)", w.what, key, kv.Lease)
		}
		if e := w.c.entries.get(key); c == nil || c.grant != e.grant || c.lease != s.lease.id {
			w.t.Fatalf("after %s: %s is served under grant %d, etcd has %+v", w.what, key, e.grant, c)
		}
	}
	if seen := w.c.seen.Load(); seen > w.etcd.rev {
		w.t.Fatalf("after %s: the highest revision seen is %d, etcd is at %d (I10)", w.what, seen, w.etcd.rev)
	}
}

// published is what readers would be told, without being one.
func (w *walk) published(key string) *snapshot {
	if e := w.c.entries.get(key); e != nil {
		return e.snap.Load()
	}
	return nil
}

func sameAs(s *snapshot, kv *mvccpb.KeyValue) bool {
	return s.present() == (kv != nil) && bytes.Equal(s.value, kv.GetValue()) &&
		s.mod == kv.GetModRevision() && s.create == kv.GetCreateRevision() && s.version == kv.GetVersion()
}

// settle delivers all that is under way. Then cache and etcd must agree.
func (w *walk) settle() {
	w.reliable = true
	for n := 0; len(w.net)+len(w.etcd.events) > 0; n++ {
		if n > 100000 {
			w.t.Fatal("it never comes to rest")
		}
		if len(w.net) > 0 {
			i := w.rng.IntN(len(w.net))
			f := w.net[i]
			w.net = slices.Delete(w.net, i, i+1)
			f()
		}
		w.event()
		w.what = "settling"
		w.check()
	}
	held := 0
	for _, key := range walkKeys {
		c, e := w.etcd.claims[key], w.c.entries.get(key)
		isOwned := e != nil && e.state == owned
		switch {
		case e != nil && e.state != owned && e.state != idle:
			w.t.Fatalf("%s is neither owned nor idle in the end", key)
		case e != nil && e.writes > 0:
			w.t.Fatalf("a write of %s is unsettled in the end", key)
		case c != nil && w.ids[c.lease] && !isOwned:
			w.t.Fatalf("the claim of %s with grant %d is ours and forgotten (I9)", key, c.grant)
		case isOwned && (c == nil || c.grant != e.grant):
			w.t.Fatalf("%s is owned under grant %d, etcd has %+v", key, e.grant, c)
		case isOwned:
			held++
		}
	}
	if w.lease.claims != held {
		w.t.Fatalf("%d claims are counted on the lease, %d are there", w.lease.claims, held)
	}
	if held > w.c.limit {
		w.t.Fatalf("%d keys are owned, and the limit is %d", held, w.c.limit)
	}
	if got := w.c.owning.bytes; w.c.maxBytes > 0 && got > w.c.maxBytes {
		w.t.Fatalf("%d bytes are owned, and the limit is %d", got, w.c.maxBytes)
	}
	if len(w.c.barring) > 0 {
		w.t.Fatalf("%d range writes are unsettled in the end", len(w.c.barring))
	}
}

// A random walk of the cache beside a tiny etcd. Whatever the network does, the
// cache serves what etcd has, and forgets no claim of ours.
func TestCacheAgainstATinyEtcd(t *testing.T) {
	seeds := pick(testing.Short(), uint64(20), uint64(150))
	stats, served := make(map[string]int), 0
	for seed := range seeds {
		func() {
			w := newWalk(t, seed)
			defer func() {
				if t.Failed() {
					t.Logf("seed %d, revision %d", seed, w.etcd.rev)
				}
			}()
			for _, w.others = range []int{4, 16, 1} {
				for range 600 {
					w.step()
				}
				w.settle()
				w.reliable = false
			}
			for k, n := range w.stats {
				stats[k] += n
			}
			stats["gone"] += int(w.etcd.gone)
			stats["asked"] += int(w.etcd.asked)
			stats["revokes answered"] += int(w.c.count.revokesAnswered.Load())
			stats["yielded"] += int(w.c.count.yields.Load())
			stats["evicted"] += int(w.c.count.evictions.Load())
			served += w.served
		}()
	}
	// Lest the walk stays at home.
	for _, what := range []string{"claim 0", "claim 1", "claim 2", "write applied", "write refused", "write unknown", "shared", "yields"} {
		if stats[what] < int(seeds) {
			t.Errorf("only %d times: %s", stats[what], what)
		}
	}
	for _, what := range []string{"idle", "evicted"} {
		if stats[what] < int(seeds)/4 {
			t.Errorf("only %d times: %s", stats[what], what)
		}
	}
	if stats["yielded"] > stats["gone"] || stats["yielded"] < stats["gone"]/2 {
		t.Errorf("%d yields are counted, %d of our claims are gone", stats["yielded"], stats["gone"])
	}
	if served < int(seeds) {
		t.Errorf("only %d reads were served", served)
	}
	t.Log(served, stats)
}
