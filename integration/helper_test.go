package integration_test

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/etcd-leasing/leasing"
	"github.com/etcd-leasing/leasing/integration/etcdtest"
	"github.com/etcd-leasing/leasing/integration/internal/reply"
)

// open returns a KV on cl that is closed with the test, before cl is.
func open(t *testing.T, cl *clientv3.Client, change ...func(*leasing.Config)) *leasing.KV {
	t.Helper()
	cfg := leasing.Config{Prefix: "leasing/", TTL: 5 * time.Second}
	for _, c := range change {
		c(&cfg)
	}
	kv, err := leasing.New(t.Context(), cl, cfg)
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

// longTTL lets keys be owned for longer than any test lasts, so that a read
// that is not served from memory is nobody's fault but the library's.
func longTTL(cfg *leasing.Config) { cfg.TTL = 2 * time.Minute }

// world is two etcds that are to hold the same data. What is tested is done in
// both: in one through a KV, beside another KV, in the other by a plain client,
// and the answers must be the same.
type world struct {
	*testing.T
	ctx           context.Context
	leased, plain *side

	kv, other       *leasing.KV
	kvClient        *clientv3.Client // of kv, whose requests sent counts
	sent, otherSent *etcdtest.Counter
}

// side is one of the two etcds. Claims take revisions of their own, so
// revisions of the two are compared by how many changes of data there were up
// to them, and leases by the order in which they were granted.
type side struct {
	cl     *clientv3.Client // a plain client
	kv     clientv3.KV      // what is tested
	writer clientv3.KV      // what brings data about
	ident  *pb.ResponseHeader
	revs   []int64 // that changed data, in order
	leases []clientv3.LeaseID
	told   int64 // the highest revision that kv has told in a header
}

// call does something to either side through its kv, and returns what that does.
type call func(*side) (any, error)

func newWorld(t *testing.T, opts ...etcdtest.Option) *world {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	w := &world{T: t, ctx: ctx, sent: new(etcdtest.Counter), otherSent: new(etcdtest.Counter)}
	etcd := etcdtest.Start(t, append(opts, etcdtest.QuickTicks())...)
	twin := etcdtest.Start(t, append(opts, etcdtest.QuickTicks())...)
	w.kvClient = etcd.Client(0, w.sent.Option())
	w.kv = open(t, w.kvClient, longTTL)
	w.other = open(t, etcd.Client(0, w.otherSent.Option()), longTTL)
	w.leased = &side{cl: etcd.Client(0), kv: w.kv, writer: w.other}
	cl := twin.Client(0)
	w.plain = &side{cl: cl, kv: cl, writer: cl}
	for _, s := range []*side{w.leased, w.plain} {
		resp, err := s.cl.Get(ctx, "x")
		w.must(err)
		s.ident, s.revs = resp.Header, []int64{resp.Header.Revision}
	}
	return w
}

// run runs a part of the test in the same world.
func (w *world) run(name string, f func(*world)) {
	w.T.Run(name, func(t *testing.T) {
		part := *w
		part.T = t
		f(&part)
	})
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// grant grants a lease on either side, and returns its index.
func (w *world) grant(ttl int64) int {
	w.Helper()
	for _, s := range []*side{w.leased, w.plain} {
		resp, err := s.cl.Grant(w.ctx, ttl)
		w.must(err)
		s.leases = append(s.leases, resp.ID)
	}
	return len(w.plain.leases) - 1
}

// same does the same on either side. It fails unless the answers, or the
// errors, are the same in every field and the header of the KV's is as it
// should be. It returns the KV's answer, or nil. The original of it is
// scribbled over, as callers may do.
func (w *world) same(what string, do call) proto.Message {
	w.Helper()
	want, wantErr := do(w.plain)
	got, gotErr := do(w.leased)
	if describe(wantErr) != describe(gotErr) {
		w.Fatalf("%s: %s; with the plain client: %s", what, describe(gotErr), describe(wantErr))
	}
	if gotErr != nil {
		return nil
	}
	wantMsg, gotMsg := reply.Message(want), reply.Message(got)
	changed := w.note(wantMsg, gotMsg)
	w.checkHeader(what, gotMsg)
	answer := proto.Clone(gotMsg)
	scribble(gotMsg)
	wantMsg, gotMsg = w.plain.relative(wantMsg, changed), w.leased.relative(answer, changed)
	if !proto.Equal(wantMsg, gotMsg) {
		w.Errorf("%s: got (with relative revisions)\n%v\nthe plain client\n%v", what, gotMsg, wantMsg)
	}
	return answer
}

// note takes the revisions of answers down if they are to a change of data.
// That is for the plain side to tell: nothing else moves its revision.
func (w *world) note(plain, leased proto.Message) (changed bool) {
	rev := header(plain).Revision
	if rev <= w.plain.revs[len(w.plain.revs)-1] {
		return false
	}
	w.plain.revs = append(w.plain.revs, rev)
	w.leased.revs = append(w.leased.revs, header(leased).Revision)
	return true
}

// checkHeader fails unless the header of an answer of the KV is complete and
// its revision has not run backwards.
func (w *world) checkHeader(what string, m proto.Message) {
	w.Helper()
	h, id := header(m), w.leased.ident
	if h.GetClusterId() != id.ClusterId || h.GetMemberId() != id.MemberId || h.GetRaftTerm() != id.RaftTerm {
		w.Errorf("%s: the header is %v, not like %v", what, h, id)
	}
	if h.GetRevision() < w.leased.told {
		w.Errorf("%s: the revision went back from %d to %d", what, w.leased.told, h.GetRevision())
	}
	w.leased.told = max(w.leased.told, h.GetRevision())
	walk(m.ProtoReflect(), func(m protoreflect.Message, f protoreflect.FieldDescriptor, v protoreflect.Value) {
		if f.Name() == "mod_revision" && v.Int() > h.GetRevision() {
			w.Errorf("%s: the header's revision is %d, that of a key %d", what, h.GetRevision(), v.Int())
		}
	})
}

// relative returns a copy of m that can be compared with the other side's. The
// revisions in headers can be only if data was changed: else they may be of
// any later time.
func (s *side) relative(m proto.Message, changed bool) proto.Message {
	m = proto.Clone(m)
	walk(m.ProtoReflect(), func(m protoreflect.Message, f protoreflect.FieldDescriptor, v protoreflect.Value) {
		switch f.Name() {
		case "cluster_id", "member_id", "raft_term":
			m.Set(f, protoreflect.ValueOfUint64(1))
		case "revision", "create_revision", "mod_revision":
			n, _ := slices.BinarySearch(s.revs, v.Int()+1)
			if f.Name() == "revision" && !changed {
				n = 1
			}
			m.Set(f, protoreflect.ValueOfInt64(int64(n)))
		case "lease":
			m.Set(f, protoreflect.ValueOfInt64(int64(slices.Index(s.leases, clientv3.LeaseID(v.Int()))+1)))
		}
	})
	return m
}

// walk visits every field that is set in m, and in all that is in it.
func walk(m protoreflect.Message, visit func(protoreflect.Message, protoreflect.FieldDescriptor, protoreflect.Value)) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsList():
			for i := range v.List().Len() {
				walk(v.List().Get(i).Message(), visit)
			}
		case f.Message() != nil:
			walk(v.Message(), visit)
		default:
			visit(m, f, v)
		}
		return true
	})
}

func header(m proto.Message) *pb.ResponseHeader {
	return m.(interface{ GetHeader() *pb.ResponseHeader }).GetHeader()
}

// agree fails unless a key is the same for everybody: for the KV, twice, as
// the first time may claim it; on the plain side; and for the other KV and a
// plain client beside the KV.
func (w *world) agree(what, key string) {
	w.Helper()
	w.same(fmt.Sprintf("%s: read of %q", what, key), func(s *side) (any, error) { return s.kv.Get(w.ctx, key) })
	got, err := w.kv.Get(w.ctx, key)
	w.must(err)
	for name, kv := range map[string]clientv3.KV{"the other KV": w.other, "etcd": w.leased.cl} {
		want, err := kv.Get(w.ctx, key)
		w.must(err)
		if got.Count != want.Count || fmt.Sprint(got.Kvs) != fmt.Sprint(want.Kvs) {
			w.Errorf("%s: %q is %v; for %s it is %v", what, key, got.Kvs, name, want.Kvs)
		}
	}
}

// revision returns etcd's, on the side of the KV.
func (w *world) revision() int64 {
	w.Helper()
	resp, err := w.leased.cl.Get(w.ctx, "x")
	w.must(err)
	return resp.Header.Revision
}

// scribble overwrites every byte of an answer.
func scribble(m proto.Message) {
	walk(m.ProtoReflect(), func(m protoreflect.Message, f protoreflect.FieldDescriptor, v protoreflect.Value) {
		switch f.Kind() {
		case protoreflect.BytesKind:
			copy(v.Bytes(), bytes.Repeat([]byte("#"), len(v.Bytes())))
		case protoreflect.Int64Kind:
			m.Set(f, protoreflect.ValueOfInt64(-v.Int()))
		case protoreflect.Uint64Kind:
			m.Set(f, protoreflect.ValueOfUint64(^v.Uint()))
		}
	})
}
