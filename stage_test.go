package leasing

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"github.com/etcd-leasing/leasing/internal/memetcd"
)

// stage is where a scene is played: two stores that hold the same data at the
// same revisions, one of them with claims, and a KV that owns what the scene
// says. It has no session: what is sent, the stage sends.
type stage struct {
	*testing.T
	*scene
	servers []*memetcd.Server
	cl      *clientv3.Client // of the store with claims
	kv      *KV
	grants  map[string]int64 // ours
	others  []string         // what somebody else claims
	listed  int64            // the revision between our claims and theirs
	before  contents

	want      *clientv3.TxnResponse // what the plain client is told of the transaction
	wantErr   error
	wantAfter contents
}

// contents is what a store holds.
type contents struct {
	data, claims []*mvccpb.KeyValue
	hdr          *etcdserverpb.ResponseHeader
}

func newStage(t *testing.T, s *scene) *stage {
	t.Helper()
	st := &stage{T: t, scene: s, grants: make(map[string]int64)}
	st.cl = st.server()
	plain := st.server()
	st.pass(plain, clientv3.OpDelete(s.layout.prefix, clientv3.WithPrefix()))
	st.pass(st.cl, clientv3.OpPut(s.layout.prefix, "")) // so that the revisions stay the same

	st.before = st.look(st.cl)
	if same := st.look(plain); !equal(st.before.data, same.data) || st.before.hdr.Revision != same.hdr.Revision {
		t.Fatalf("the two stores are not the same:\n%v\n%v", st.before, same)
	}
	st.kv = &KV{etcd: st.cl.KV, layout: s.layout, maxOps: s.maxOps, cache: newCache(defaultMaxKeys), closing: make(chan struct{})}
	st.own()

	cmps, then, els := s.op.Txn()
	st.want, st.wantErr = plain.Txn(context.Background()).If(cmps...).Then(then...).Else(els...).Commit()
	st.wantAfter = st.look(plain)
	return st
}

func (st *stage) close() {
	for _, srv := range st.servers {
		srv.Close()
	}
}

// server returns a client of a new store that holds the data and the claims.
func (st *stage) server() *clientv3.Client {
	srv := memetcd.New(memetcd.Options{MaxTxnOps: st.maxOps})
	st.servers = append(st.servers, srv)
	cl, conn := srv.Client("c")
	for _, id := range []int64{dataLease, ourLease, somebodysLease} {
		if _, err := conn.LeaseClient().LeaseGrant(context.Background(), &etcdserverpb.LeaseGrantRequest{ID: id, TTL: 3600}); err != nil {
			st.Fatal(err)
		}
	}
	st.fill(cl)
	return cl
}

// fill puts the data of the scene, then our claims, then those of somebody else.
func (st *stage) fill(cl *clientv3.Client) {
	for _, k := range st.keys {
		for i := range k.puts {
			var opts []clientv3.OpOption
			if k.leased {
				opts = append(opts, clientv3.WithLease(dataLease))
			}
			st.pass(cl, clientv3.OpPut(k.name, []string{"0", "1"}[i], opts...))
		}
	}
	st.listed = st.pass(cl, clientv3.OpPut(st.layout.prefix, ""))
	var ours []string
	st.others = nil
	for _, k := range st.keys {
		switch k.owner {
		case us:
			ours = append(ours, k.name)
		case somebody:
			st.others = append(st.others, k.name)
		}
	}
	for some := range slices.Chunk(ours, min(1+len(ours)/16, st.maxOps)) {
		st.listed = st.pass(cl, st.claims(some, ourLease)...)
		for _, key := range some {
			st.grants[key] = st.listed
		}
	}
	for _, key := range st.others {
		st.pass(cl, st.claims([]string{key}, somebodysLease)...)
	}
}

func (st *stage) claims(keys []string, lease clientv3.LeaseID) (ops []clientv3.Op) {
	for _, key := range keys {
		ops = append(ops, clientv3.OpPut(st.layout.claimKey(key), "", clientv3.WithLease(lease)))
	}
	return ops
}

// pass does ops, which must succeed, and returns the revision that they make.
func (st *stage) pass(cl *clientv3.Client, ops ...clientv3.Op) int64 {
	st.Helper()
	resp, err := cl.Txn(context.Background()).Then(ops...).Commit()
	if err != nil {
		st.Fatal(err)
	}
	return resp.Header.Revision
}

func (st *stage) look(cl *clientv3.Client) (c contents) {
	st.Helper()
	resp, err := cl.Get(context.Background(), "", clientv3.WithPrefix())
	if err != nil {
		st.Fatal(err)
	}
	for _, kv := range resp.Kvs {
		if strings.HasPrefix(string(kv.Key), st.layout.prefix) {
			c.claims = append(c.claims, kv)
		} else {
			c.data = append(c.data, kv)
		}
	}
	c.hdr = resp.Header
	return c
}

func (c contents) key(name string) *mvccpb.KeyValue {
	for _, kv := range c.data {
		if string(kv.Key) == name {
			return kv
		}
	}
	return nil
}

func equal(a, b []*mvccpb.KeyValue) bool {
	return slices.EqualFunc(a, b, func(a, b *mvccpb.KeyValue) bool { return proto.Equal(a, b) })
}

// own fills the cache with what we own.
func (st *stage) own() {
	l := newLease(ourLease, time.Now(), time.Hour)
	for _, k := range st.keys {
		if grant := st.grants[k.name]; grant != 0 {
			hdr := copyHeader(st.before.hdr)
			hdr.Revision = grant
			own(st.kv.cache, l, k.name, st.before.key(k.name), hdr)
		}
	}
	st.kv.cache.observe(st.before.hdr)
}

// checkMemory checks the answer from memory, if there is one.
func (st *stage) checkMemory() (answered bool) {
	st.Helper()
	r := st.kv.evaluate(st.op.Txn())
	if r == nil {
		return false
	}
	st.checkReply("from memory", r, nil)
	return true
}

// decide sends a transaction that writes nothing.
func (st *stage) decide() string {
	st.Helper()
	cmps, then, els := st.op.Txn()
	r, err := st.kv.decide(context.Background(), cmps, then, els)
	st.checkReply("read only", r, err)
	st.checkStore(st.before.data)
	st.checkCache(nil)
	if err != nil {
		return "refused"
	}
	return "done"
}

// write sends the plan of a transaction that may write, and settles it.
func (st *stage) write(p *plan, user *etcdserverpb.TxnRequest) string {
	st.Helper()
	w, _ := st.kv.cache.begin(p.points, p.ranges, p.barred(), true)
	q := p.request(w, st.listed, p.single() && new(caution).expect(w.points[0]))
	req := requestOf(st.T, clientv3.OpTxn(q.guards, q.then, q.els))
	checkRequest(st.T, st.scene, user, req, q, st.grants, st.listed)
	st.checkRoom(p, q, req)

	resp, err := st.cl.Txn(context.Background()).If(q.guards...).Then(q.then...).Else(q.els...).Commit()
	switch byUser := written(user); {
	case err != nil:
		return st.settleError(p, w, err, byUser)
	case !resp.Succeeded:
		return st.settleRefusal(p, w, q, resp, byUser)
	default:
		return st.settleReply(p, w, q, resp, byUser)
	}
}

// checkRoom checks that every owned key that is written by itself is read back
// after the user's operations, unless that would be more than etcd takes.
func (st *stage) checkRoom(p *plan, q request, req *etcdserverpb.TxnRequest) {
	st.Helper()
	owned := 0
	for _, key := range p.points {
		if st.grants[key] != 0 {
			owned++
		}
	}
	req = proto.Clone(req).(*etcdserverpb.TxnRequest)
	req.Success = append(req.Success, &etcdserverpb.RequestOp{})
	if len(q.read) < owned && p.cover == nil && etcdTakes(req, st.maxOps) {
		st.Fatalf("%d of %d keys are read back, where there is room for another:\n%v", len(q.read), owned, req)
	}
}

// settleError: etcd gives the plain client an error, too, and nothing changes.
func (st *stage) settleError(p *plan, w *write, err error, byUser []keyRange) string {
	st.Helper()
	if o := outcomeOf(err); o != refused {
		st.Fatalf("the outcome of %v is %v", err, o)
	}
	st.kv.cache.settle(w, settlement{outcome: refused})
	st.checkStore(st.before.data)
	st.checkCache(nil)
	if errors.Is(err, rpctypes.ErrDuplicateKey) && !errors.Is(st.wantErr, rpctypes.ErrDuplicateKey) {
		st.checkDivided(p, err, byUser)
		return "divided"
	}
	st.checkReply("error", nil, err)
	return "refused"
}

// checkDivided: what the plain client could do we cannot if a range without an
// end is deleted around the claims, and a key in its first part is put.
func (st *stage) checkDivided(p *plan, err error, byUser []keyRange) {
	st.Helper()
	for _, r := range byUser {
		first := keyRange{r.begin, st.layout.prefix}
		if r.end == openEnd && slices.ContainsFunc(byUser, func(k keyRange) bool { return k.end == "" && first.contains(k.begin) }) {
			if !strings.Contains(p.explain(err).Error(), "two parts") {
				st.Errorf("not explained: %v", p.explain(err))
			}
			return
		}
	}
	st.Fatalf("%v; the plain client gets %v", err, st.wantErr)
}

// settleRefusal: somebody has claimed what is guarded, and nothing is done.
func (st *stage) settleRefusal(p *plan, w *write, q request, resp *clientv3.TxnResponse, byUser []keyRange) string {
	st.Helper()
	told := make(map[string]bool)
	for _, r := range append(p.newcomers(q, resp), deref(p.claims(resp))...) {
		told[r.key] = true
	}
	inTheWay := 0
	for _, key := range st.others {
		if namedBy(key, byUser) || p.cover != nil && contained(key, p.cover) {
			if inTheWay++; !told[key] {
				st.Fatalf("%q is in the way, and only %v is told", key, told)
			}
		}
	}
	if inTheWay == 0 {
		st.Fatalf("nothing is in the way, but the guards fail:\n%v", resp)
	}
	st.kv.cache.settle(w, settlement{outcome: refused, hdr: resp.Header, claims: p.claims(resp)})
	st.checkStore(st.before.data)
	st.checkCache(nil)
	return "in the way"
}

func deref(rs []*claimRecord) (out []claimRecord) {
	for _, r := range rs {
		if r != nil {
			out = append(out, *r)
		}
	}
	return out
}

// settleReply: the store is as the plain client left the other, the user is
// told the same, and what is still owned is known as it is.
func (st *stage) settleReply(p *plan, w *write, q request, resp *clientv3.TxnResponse, byUser []keyRange) string {
	st.Helper()
	for _, key := range st.others {
		if namedBy(key, byUser) {
			st.Fatalf("done, though somebody else owns %q", key)
		}
	}
	reads := p.readBacks(q, resp)
	st.checkReply("reply", p.reply(q, resp), nil)
	st.kv.cache.settle(w, settlement{outcome: applied, hdr: resp.Header, read: reads})
	st.checkStore(st.wantAfter.data)
	st.checkCache(byUser)
	return "done"
}

// checkReply compares what the user is told with what the plain client is.
func (st *stage) checkReply(what string, got *clientv3.TxnResponse, err error) {
	st.Helper()
	takes := etcdTakes(requestOf(st.T, st.op), st.maxOps)
	switch {
	case !takes && err != nil && st.wantErr != nil: // for one reason or another
	case rpctypes.Error(err) != rpctypes.Error(st.wantErr):
		st.Fatalf("%s: %v; the plain client gets %v", what, err, st.wantErr)
	case err == nil:
		got, want := (*etcdserverpb.TxnResponse)(got), (*etcdserverpb.TxnResponse)(st.want)
		if !proto.Equal(got, want) {
			st.Fatalf("%s:\n%v\nthe plain client gets\n%v", what, got, want)
		}
	}
}

// checkStore compares the data in the store, and checks that the claims are
// there as ever, asked for or not.
func (st *stage) checkStore(data []*mvccpb.KeyValue) {
	st.Helper()
	now := st.look(st.cl)
	if !equal(now.data, data) {
		st.Fatalf("the store holds\n%v\nand should hold\n%v", now.data, data)
	}
	sameClaim := func(a, b *mvccpb.KeyValue) bool {
		return bytes.Equal(a.Key, b.Key) && a.CreateRevision == b.CreateRevision && a.Lease == b.Lease
	}
	if !slices.EqualFunc(now.claims, st.before.claims, sameClaim) {
		st.Fatalf("the claims were\n%v\nand are\n%v", st.before.claims, now.claims)
	}
}

// checkCache checks that what would be served is what the store holds, and that
// everything we own is served, unless byUser names it.
func (st *stage) checkCache(byUser []keyRange) {
	st.Helper()
	now := st.look(st.cl)
	for key := range st.grants {
		s, kv := st.kv.cache.lookup(key), now.key(key)
		switch {
		case s == nil && namedBy(key, byUser): // given up
		case s == nil:
			st.Fatalf("%q is no longer owned", key)
		case s.present() != (kv != nil) || s.create != kv.GetCreateRevision() || s.mod != kv.GetModRevision() ||
			s.version != kv.GetVersion() || !bytes.Equal(s.value, kv.GetValue()) || kv.GetLease() != 0:
			st.Fatalf("%q is %+v in memory, %v in the store", key, s, kv)
		}
	}
}
