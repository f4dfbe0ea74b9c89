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
	"github.com/etcd-leasing/leasing/internal/differ"
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

// Actual turns the common count into a revision of this side.
func (s *side) Actual(n int64) int64 {
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

func (s *side) Lease(i int) clientv3.LeaseID {
	if i >= len(s.leases) {
		return 12345 // there is no such lease
	}
	return s.leases[i]
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

func (s *side) do(ctx context.Context, n int, op clientv3.Op) (string, []int64) {
	resp, err := s.kvs[n%len(s.kvs)].Do(ctx, op)
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
	}

	g := &differ.Generator{
		Rand: rand.New(rand.NewPCG(seed, 1)), Prefix: claimPrefix,
		Data:   func() int64 { return plain.told(1 << 40) },
		Leases: func() int { return len(plain.leases) },
	}
	last := make([]int64, len(ours.kvs)) // the latest header revision of each KV
	for step := range steps {
		n, op := g.IntN(len(ours.kvs)), g.Op()
		got, gotRevs := ours.do(ctx, n, op.For(ours))
		want, wantRevs := plain.do(ctx, 0, op.For(plain))
		describe := func() string { return fmt.Sprintf("seed %d, step %d, KV %d, %s", seed, step, n, op.Text(ours)) }
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
		for _, key := range g.Keys() {
			got, _ := s.do(ctx, 0, clientv3.OpGet(key))
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
