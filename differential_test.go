package leasing_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sort"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-leasing/leasing"
	"github.com/etcd-leasing/leasing/internal/memetcd"
)

// side is one of the two stores that get the same operations: one through
// KVs, one through a plain client. Claims take revisions of their own, so
// revisions are told as the number of revisions with data up to there.
type side struct {
	kvs    []clientv3.KV
	lease  clientv3.Lease
	leases []clientv3.LeaseID

	mu   sync.Mutex
	data []int64 // the revisions that changed data
}

const claimPrefix = "claims/"

func newSide(srv *memetcd.Server) *side {
	s := &side{}
	srv.OnApply(func(_ context.Context, rev int64, events []*mvccpb.Event) {
		for _, ev := range events {
			if !strings.HasPrefix(string(ev.Kv.Key), claimPrefix) {
				s.mu.Lock()
				s.data = append(s.data, rev)
				s.mu.Unlock()
				return
			}
		}
	})
	return s
}

// told turns a revision of this side into the common count.
func (s *side) told(rev int64) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return int64(sort.Search(len(s.data), func(i int) bool { return s.data[i] > rev }))
}

// actual turns the common count into a revision of this side.
func (s *side) actual(n int64) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case n <= 0:
		return n // none, or invalid
	case n > int64(len(s.data)):
		return 1 << 40
	}
	return s.data[n-1]
}

// spec is an operation that can be made for either side.
type spec func(*side) clientv3.Op

type generator struct {
	*rand.Rand
	data  func() int64
	value int
}

var diffKeys = []string{"a", "b", "c", "b\x00", "\x00", "\xff", "\xff\xff", "claims", "claims0"}

func (g *generator) key() string { return diffKeys[g.IntN(len(diffKeys))] }

// rng returns a range as key and options; now and then a single key.
func (g *generator) rng() (string, []clientv3.OpOption) {
	switch g.IntN(6) {
	case 0:
		return g.key(), []clientv3.OpOption{clientv3.WithPrefix()}
	case 1:
		return g.key(), []clientv3.OpOption{clientv3.WithFromKey()}
	case 2:
		return g.key(), []clientv3.OpOption{clientv3.WithRange(g.key())}
	case 3:
		return "", []clientv3.OpOption{clientv3.WithPrefix()}
	}
	return g.key(), nil
}

func (g *generator) get() spec {
	key, opts := g.rng()
	if len(opts) > 0 && (key == "" || key <= "claims" || strings.HasPrefix(key, "claims")) {
		key, opts = g.key(), nil // it would show the claims, of which only one side has any
	}
	if len(opts) > 0 && g.IntN(2) == 0 {
		opts = append(opts, clientv3.WithSort(clientv3.SortTarget(g.IntN(5)), clientv3.SortOrder(g.IntN(3))))
	}
	if g.IntN(8) == 0 {
		opts = append(opts, clientv3.WithKeysOnly())
	}
	if g.IntN(8) == 0 {
		opts = append(opts, clientv3.WithCountOnly())
	}
	if g.IntN(8) == 0 {
		opts = append(opts, clientv3.WithLimit(int64(g.IntN(3))))
	}
	if g.IntN(8) == 0 {
		opts = append(opts, clientv3.WithSerializable())
	}
	n, which := int64(g.IntN(int(g.data())+2)), g.IntN(12)
	return func(s *side) clientv3.Op {
		o := opts[:len(opts):len(opts)]
		switch which {
		case 0:
			o = append(o, clientv3.WithMinModRev(s.actual(n)))
		case 1:
			o = append(o, clientv3.WithMaxModRev(s.actual(n)))
		case 2:
			o = append(o, clientv3.WithMinCreateRev(s.actual(n)))
		case 3:
			o = append(o, clientv3.WithMaxCreateRev(s.actual(n)))
		case 4:
			o = append(o, clientv3.WithRev(s.actual(n)))
		}
		return clientv3.OpGet(key, o...)
	}
}

func (g *generator) put() spec {
	key, which, prev, lease := g.key(), g.IntN(10), g.IntN(3) == 0, g.IntN(3)
	g.value++
	val := fmt.Sprint("v", g.value%7)
	return func(s *side) clientv3.Op {
		var o []clientv3.OpOption
		v := val
		switch which {
		case 0:
			o, v = append(o, clientv3.WithIgnoreValue()), ""
		case 1:
			o = append(o, clientv3.WithIgnoreLease())
		case 2:
			o = append(o, clientv3.WithLease(s.leases[lease]))
		case 3:
			o, v = append(o, clientv3.WithIgnoreValue(), clientv3.WithLease(s.leases[lease])), ""
		}
		if prev {
			o = append(o, clientv3.WithPrevKV())
		}
		return clientv3.OpPut(key, v, o...)
	}
}

func (g *generator) del() spec {
	key, opts := g.rng()
	if g.IntN(2) == 0 {
		opts = append(opts, clientv3.WithPrevKV())
	}
	return func(*side) clientv3.Op { return clientv3.OpDelete(key, opts...) }
}

// boundedDel is del without open ranges. Beside puts, those that cover the
// claims are refused (see TestOpenRangeBesidePut), and any of them crashes a
// real etcd if a put with WithIgnoreValue of a key that it deletes comes after.
func (g *generator) boundedDel() spec {
	for {
		f := g.del()
		if op := f(nil); string(op.RangeBytes()) != "\x00" {
			return f
		}
	}
}

func (g *generator) cmp() func(*side) clientv3.Cmp {
	key, result := g.key(), []string{"=", "!=", "<", ">"}[g.IntN(4)]
	n, target, ranged := int64(g.IntN(int(g.data())+2)), g.IntN(5), key > "claims0" && g.IntN(4) == 0
	return func(s *side) clientv3.Cmp {
		var c clientv3.Cmp
		switch target {
		case 0:
			c = clientv3.Compare(clientv3.Value(key), result, fmt.Sprint("v", n%7))
		case 1:
			c = clientv3.Compare(clientv3.Version(key), result, n%4)
		case 2:
			c = clientv3.Compare(clientv3.CreateRevision(key), result, s.actual(n))
		case 3:
			c = clientv3.Compare(clientv3.ModRevision(key), result, s.actual(n))
		case 4:
			c = clientv3.Compare(clientv3.LeaseValue(key), result, s.leases[n%3])
			if n%2 == 0 {
				c = clientv3.Compare(clientv3.LeaseValue(key), result, 0)
			}
		}
		if ranged {
			c = c.WithPrefix()
		}
		return c
	}
}

func (g *generator) txn(depth int) spec {
	var cmps []func(*side) clientv3.Cmp
	for range g.IntN(3) {
		cmps = append(cmps, g.cmp())
	}
	ops := func() (out []spec) {
		readOnly := g.IntN(3) == 0
		for range g.IntN(4) {
			switch k := g.IntN(8); {
			case k < 3 || readOnly:
				out = append(out, g.get())
			case k < 5:
				out = append(out, g.put())
			case k < 6:
				out = append(out, g.boundedDel())
			case depth > 0:
				out = append(out, g.txn(depth-1))
			}
		}
		return out
	}
	then, els := ops(), ops()
	return func(s *side) clientv3.Op {
		var cs []clientv3.Cmp
		for _, c := range cmps {
			cs = append(cs, c(s))
		}
		build := func(specs []spec) (out []clientv3.Op) {
			for _, f := range specs {
				out = append(out, f(s))
			}
			return out
		}
		return clientv3.OpTxn(cs, build(then), build(els))
	}
}

func (g *generator) op() spec {
	switch k := g.IntN(20); {
	case k < 8:
		return g.get()
	case k < 12:
		return g.put()
	case k < 14:
		return g.del()
	}
	return g.txn(2)
}

// text tells a reply in words common to both sides. Header revisions are told
// apart, since an answer from memory may be of an older revision.
func (s *side) text(b *strings.Builder, revs *[]int64, r any) {
	head := func(h *pb.ResponseHeader) {
		if h == nil {
			b.WriteString("(no header)")
			return
		}
		fmt.Fprintf(b, "(header %t %t %t %t)", h.ClusterId != 0, h.MemberId != 0, h.RaftTerm != 0, h.Revision != 0)
		if h.Revision != 0 {
			*revs = append(*revs, s.told(h.Revision))
		}
	}
	kv := func(kv *mvccpb.KeyValue) {
		if kv == nil {
			b.WriteString("nil ")
			return
		}
		lease := -1
		for i, id := range s.leases {
			if kv.Lease == int64(id) {
				lease = i
			}
		}
		fmt.Fprintf(b, "%q=%q nil:%t v%d c%d m%d l%d ", kv.Key, kv.Value, kv.Value == nil, kv.Version, s.told(kv.CreateRevision), s.told(kv.ModRevision), lease)
	}
	switch r := r.(type) {
	case *pb.RangeResponse:
		fmt.Fprintf(b, "range more:%t count:%d ", r.More, r.Count)
		for _, k := range r.Kvs {
			kv(k)
		}
		head(r.Header)
	case *pb.PutResponse:
		b.WriteString("put prev:")
		kv(r.PrevKv)
		head(r.Header)
	case *pb.DeleteRangeResponse:
		fmt.Fprintf(b, "delete %d ", r.Deleted)
		for _, k := range r.PrevKvs {
			kv(k)
		}
		head(r.Header)
	case *pb.TxnResponse:
		fmt.Fprintf(b, "txn %t [", r.Succeeded)
		for _, o := range r.Responses {
			switch o := o.Response.(type) {
			case *pb.ResponseOp_ResponseRange:
				s.text(b, revs, o.ResponseRange)
			case *pb.ResponseOp_ResponsePut:
				s.text(b, revs, o.ResponsePut)
			case *pb.ResponseOp_ResponseDeleteRange:
				s.text(b, revs, o.ResponseDeleteRange)
			case *pb.ResponseOp_ResponseTxn:
				s.text(b, revs, o.ResponseTxn)
			}
			b.WriteString("; ")
		}
		b.WriteString("]")
		head(r.Header)
	}
}

func (s *side) do(ctx context.Context, n int, f spec) (string, []int64) {
	resp, err := s.kvs[n%len(s.kvs)].Do(ctx, f(s))
	if err != nil {
		return fmt.Sprintf("%T %v", err, err), nil
	}
	var b strings.Builder
	var revs []int64
	switch {
	case resp.Get() != nil:
		s.text(&b, &revs, (*pb.RangeResponse)(resp.Get()))
	case resp.Put() != nil:
		s.text(&b, &revs, (*pb.PutResponse)(resp.Put()))
	case resp.Del() != nil:
		s.text(&b, &revs, (*pb.DeleteRangeResponse)(resp.Del()))
	case resp.Txn() != nil:
		s.text(&b, &revs, (*pb.TxnResponse)(resp.Txn()))
	}
	return b.String(), revs
}

// TestRepliesEqualThePlainClients runs the same random operations through KVs
// that share one store, on keys owned, foreign and unclaimed, and through a
// plain client of another store, and compares every field of every reply and
// every error.
func TestRepliesEqualThePlainClients(t *testing.T) {
	for seed := range uint64(24) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { compareReplies(t, seed, 400) })
		})
	}
}

func compareReplies(t *testing.T, seed uint64, steps int) {
	ctx := context.Background()
	ourSrv, plainSrv := memetcd.New(memetcd.Options{}), memetcd.New(memetcd.Options{})
	defer ourSrv.Close()
	defer plainSrv.Close()
	ours, plain := newSide(ourSrv), newSide(plainSrv)
	for i := range 2 {
		cl := ourSrv.NewClient(fmt.Sprint("kv", i))
		defer cl.Close()
		kv, err := leasing.New(ctx, cl, leasing.Config{Prefix: claimPrefix})
		if err != nil {
			t.Fatal(err)
		}
		defer kv.Close()
		ours.kvs, ours.lease = append(ours.kvs, kv), cl.Lease
	}
	cl := plainSrv.NewClient("plain")
	defer cl.Close()
	plain.kvs, plain.lease = []clientv3.KV{cl.KV}, cl.Lease
	for _, s := range []*side{ours, plain} {
		for range 2 {
			l, err := s.lease.Grant(ctx, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			s.leases = append(s.leases, l.ID)
		}
		s.leases = append(s.leases, 12345) // there is no such lease
	}

	g := &generator{Rand: rand.New(rand.NewPCG(seed, 1)), data: func() int64 { return plain.told(1 << 40) }}
	last := make([]int64, len(ours.kvs)) // the latest header revision of each KV
	for step := range steps {
		n, f := g.IntN(len(ours.kvs)), g.op()
		got, gotRevs := ours.do(ctx, n, f)
		want, wantRevs := plain.do(ctx, 0, f)
		op := f(plain)
		describe := func() string {
			return fmt.Sprintf("seed %d, step %d, KV %d, key %q end %q, get:%t put:%t del:%t txn:%t",
				seed, step, n, op.KeyBytes(), op.RangeBytes(), op.IsGet(), op.IsPut(), op.IsDelete(), op.IsTxn())
		}
		if got != want {
			t.Fatalf("%s\n got %s\nwant %s", describe(), got, want)
		}
		if len(gotRevs) != len(wantRevs) {
			t.Fatalf("%s: headers with revisions: got %v, want %v", describe(), gotRevs, wantRevs)
		}
		for i := range gotRevs {
			if gotRevs[i] > wantRevs[i] || len(ours.kvs) == 1 && gotRevs[i] != wantRevs[i] {
				t.Fatalf("%s: header revisions: got %v, want %v", describe(), gotRevs, wantRevs)
			}
		}
		if k := len(gotRevs); k > 0 { // the outermost header comes last
			if gotRevs[k-1] < last[n] {
				t.Fatalf("%s: header revision %d after %d", describe(), gotRevs[k-1], last[n])
			}
			last[n] = gotRevs[k-1]
		}
		if g.IntN(20) == 0 {
			time.Sleep(time.Duration(g.IntN(3000)) * time.Millisecond) // let keys rest
		}
	}
	// Both stores hold the same in the end.
	everything := func(s *side) string {
		text := ""
		for _, key := range diffKeys {
			got, _ := s.do(ctx, 0, func(*side) clientv3.Op { return clientv3.OpGet(key) })
			text += got + "\n"
		}
		return text
	}
	if got, want := everything(ours), everything(plain); got != want {
		t.Errorf("seed %d: in the end\n got %s\nwant %s", seed, got, want)
	}
}

// TestOpenRangeBesidePut: etcd does not mind a put of a key that the same
// transaction deletes with an open range. If that range covers the claims it
// is divided, and the first part has an end; then etcd does mind.
func TestOpenRangeBesidePut(t *testing.T) {
	cl, stop := connect()
	defer stop()
	ctx := context.Background()
	kv, err := leasing.New(ctx, cl, leasing.Config{Prefix: claimPrefix})
	if err != nil {
		t.Fatal(err)
	}
	defer kv.Close()
	_, err = kv.Txn(ctx).Then(clientv3.OpDelete("a", clientv3.WithFromKey()), clientv3.OpPut("b", "v")).Commit()
	if !errors.Is(err, rpctypes.ErrDuplicateKey) || !strings.Contains(err.Error(), claimPrefix) {
		t.Errorf("below the claims: got %v, want an explained ErrDuplicateKey", err)
	}
	_, err = kv.Txn(ctx).Then(clientv3.OpDelete("d", clientv3.WithFromKey()), clientv3.OpPut("e", "v")).Commit()
	if err != nil {
		t.Errorf("above the claims: %v", err)
	}
}
