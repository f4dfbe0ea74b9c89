package integration_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/etcd-leasing/leasing/integration/etcdtest"
	"github.com/etcd-leasing/leasing/internal/memetcd"
)

// The tests in this file hold memetcd to its promise: they do the same to it and to a real server, and
// whatever the two answer must be equal, field by field and error by error. Only what names the
// cluster is left out.

// twins is a real etcd and a memetcd that are meant to be in the same state.
type twins struct {
	*testing.T
	real, mem twin
	etcd      *etcdtest.Cluster
	srv       *memetcd.Server
	rng       *rand.Rand
	calls     int
	errs      map[string]int // how often each error came, to see that the walk gets everywhere

	leases []int64 // granted, perhaps revoked since
	proper bool    // never to name a range that ends before it begins

	mu     sync.Mutex
	sealed map[int64]bool // revisions that must not be compacted to; see compactable
}

type twin struct {
	cli   *clientv3.Client
	kv    pb.KVClient
	lease pb.LeaseClient
	watch pb.WatchClient
}

func newTwins(t *testing.T, seed uint64, opts ...etcdtest.Option) *twins {
	t.Helper()
	etcd := etcdtest.Start(t, opts...)
	srv := memetcd.New(memetcd.Options{MinTTL: 2})
	t.Cleanup(srv.Close)
	tw := &twins{
		T:      t,
		etcd:   etcd,
		real:   realTwin(etcd.Client(0)),
		srv:    srv,
		rng:    rand.New(rand.NewPCG(seed, 0)),
		errs:   make(map[string]int),
		sealed: make(map[int64]bool),
	}
	tw.mem, _ = memTwin(srv)
	srv.OnApply(tw.seal)
	return tw
}

func realTwin(cli *clientv3.Client) twin {
	conn := cli.ActiveConnection()
	return twin{cli, pb.NewKVClient(conn), pb.NewLeaseClient(conn), pb.NewWatchClient(conn)}
}

func memTwin(srv *memetcd.Server) (twin, *memetcd.Conn) {
	cli, conn := srv.Client("twin")
	return twin{cli, conn.KVClient(), conn.LeaseClient(), conn.WatchClient()}, conn
}

// same sends a request to both and fails the test unless the answers are the same. It returns the
// answer, nil if it was an error.
func same[M proto.Message](tw *twins, what string, req proto.Message, send func(twin) (M, error)) (M, error) {
	tw.Helper()
	tw.calls++
	want, wantErr := send(tw.real)
	got, gotErr := send(tw.mem)
	if describe(wantErr) != describe(gotErr) {
		tw.Fatalf("call %d, %s %v:\nmemetcd: %v\netcd:    %v", tw.calls, what, req, describe(gotErr), describe(wantErr))
	}
	if wantErr != nil {
		tw.errs[describe(wantErr)]++
		return want, wantErr
	}
	anonymous(want)
	anonymous(got)
	if !proto.Equal(want, got) {
		tw.Fatalf("call %d, %s %v:\nmemetcd: %v\netcd:    %v", tw.calls, what, req, got, want)
	}
	return want, nil
}

// anonymous hides which cluster answered.
func anonymous(msg proto.Message) {
	h := msg.(interface{ GetHeader() *pb.ResponseHeader }).GetHeader()
	if h == nil || h.ClusterId == 0 || h.MemberId == 0 || h.RaftTerm == 0 {
		panic(fmt.Sprintf("no complete header: %v", msg))
	}
	h.ClusterId, h.MemberId, h.RaftTerm = 0, 0, 0
}

// describe is all that a client can tell of an error.
func describe(err error) string {
	if err == nil {
		return "no error"
	}
	if ee, ok := errors.AsType[rpctypes.EtcdError](err); ok {
		return fmt.Sprintf("EtcdError %v: %v", ee.Code(), ee)
	}
	return fmt.Sprintf("%v: %v", status.Code(err), status.Convert(err).Message())
}

// pick returns one of its arguments.
func pick[T any](rng *rand.Rand, vs ...T) T { return vs[rng.IntN(len(vs))] }

func (tw *twins) chance(percent int) bool { return tw.rng.IntN(100) < percent }

func (tw *twins) key() []byte {
	if tw.rng.IntN(500) == 0 {
		return nil
	}
	return []byte(pick(tw.rng, "\x00", "\x00\x00", "a", "a\x00", "a\xff", "b", "ba", "bb", "c", "\xff", "\xff\xff"))
}

// interval is a key and a range_end, which may be empty.
func (tw *twins) interval() (key, end []byte) {
	key = tw.key()
	end = []byte(pick(tw.rng, "", "", "\x00", "\x00\x01", "a\x00", "b", "bb", "c", "d", "\xff", "\xff\xff\xff"))
	if tw.proper && string(end) != "\x00" && bytes.Compare(key, end) >= 0 {
		end = nil
	}
	return key, end
}

func (tw *twins) value() []byte {
	return []byte(pick(tw.rng, "", "\x00", "v", "w", "\xff", "value"))
}

func (tw *twins) leaseID() int64 {
	switch {
	case tw.chance(50) || len(tw.leases) == 0:
		return 0
	case tw.chance(10):
		return pick[int64](tw.rng, -1, 99, math.MaxInt64)
	default:
		return pick(tw.rng, tw.leases...)
	}
}

// revision is near those that exist.
func (tw *twins) revision() int64 {
	rev := tw.srv.Revision()
	return pick(tw.rng, rev+2, rev+1, rev, rev-1, rev-int64(tw.rng.IntN(60)), int64(tw.rng.IntN(5))-2)
}

func (tw *twins) rangeRequest() *pb.RangeRequest {
	r := &pb.RangeRequest{Serializable: tw.chance(20)}
	r.Key, r.RangeEnd = tw.interval()
	if tw.chance(30) {
		r.Limit = pick[int64](tw.rng, 1, 2, 3, 100, -1, math.MaxInt64)
	}
	if tw.chance(30) {
		r.Revision = tw.revision()
	}
	if tw.chance(30) {
		r.SortOrder = pb.RangeRequest_SortOrder(tw.rng.IntN(3))
		r.SortTarget = pb.RangeRequest_SortTarget(tw.rng.IntN(5))
	}
	if tw.chance(1) {
		r.SortOrder, r.SortTarget = pick(tw.rng, pb.RangeRequest_NONE, 7), pick(tw.rng, pb.RangeRequest_KEY, 7)
	}
	r.KeysOnly, r.CountOnly = tw.chance(20), tw.chance(10)
	for _, bound := range []*int64{&r.MinModRevision, &r.MaxModRevision, &r.MinCreateRevision, &r.MaxCreateRevision} {
		if tw.chance(5) {
			*bound = tw.revision()
		}
	}
	return r
}

func (tw *twins) putRequest() *pb.PutRequest {
	p := &pb.PutRequest{Key: tw.key(), Value: tw.value(), Lease: tw.leaseID(), PrevKv: tw.chance(20)}
	if tw.chance(15) {
		p.IgnoreValue = true
		if !tw.chance(10) {
			p.Value = nil
		}
	}
	if tw.chance(15) {
		p.IgnoreLease = true
		if !tw.chance(10) {
			p.Lease = 0
		}
	}
	return p
}

func (tw *twins) deleteRequest() *pb.DeleteRangeRequest {
	key, end := tw.interval()
	return &pb.DeleteRangeRequest{Key: key, RangeEnd: end, PrevKv: tw.chance(30)}
}

func (tw *twins) compare() *pb.Compare {
	c := &pb.Compare{
		Key:    tw.key(),
		Result: pb.Compare_CompareResult(tw.rng.IntN(4)),
		Target: pb.Compare_CompareTarget(tw.rng.IntN(5)),
	}
	if tw.chance(20) {
		c.Key, c.RangeEnd = tw.interval()
	}
	if tw.chance(1) {
		c.Result, c.Target = pb.Compare_CompareResult(tw.rng.IntN(6)), pb.Compare_CompareTarget(tw.rng.IntN(7))
	}
	union := c.Target
	if tw.chance(2) {
		union = pb.Compare_CompareTarget(tw.rng.IntN(6)) // not what the target asks for
	}
	switch union {
	case pb.Compare_VERSION:
		c.TargetUnion = &pb.Compare_Version{Version: int64(tw.rng.IntN(3))}
	case pb.Compare_CREATE:
		c.TargetUnion = &pb.Compare_CreateRevision{CreateRevision: pick(tw.rng, 0, tw.revision())}
	case pb.Compare_MOD:
		c.TargetUnion = &pb.Compare_ModRevision{ModRevision: pick(tw.rng, 0, tw.revision())}
	case pb.Compare_VALUE:
		c.TargetUnion = &pb.Compare_Value{Value: tw.value()}
	case pb.Compare_LEASE:
		c.TargetUnion = &pb.Compare_Lease{Lease: tw.leaseID()}
	}
	return c
}

func (tw *twins) txnRequest(depth int) *pb.TxnRequest {
	r := new(pb.TxnRequest)
	for range pick(tw.rng, 0, 0, 1, 1, 2, 3) {
		r.Compare = append(r.Compare, tw.compare())
	}
	r.Success, r.Failure = tw.ops(depth), tw.ops(depth)
	if tw.chance(2) { // near the limit of 128 operations a list
		n := pick(tw.rng, 60, 64, 126, 127, 128, 129)
		for len(r.Success) < n {
			r.Success = append(r.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: tw.rangeRequest()}})
		}
	}
	return r
}

func (tw *twins) ops(depth int) []*pb.RequestOp {
	var ops []*pb.RequestOp
	onlyRanges := tw.chance(20)
	for range pick(tw.rng, 0, 1, 1, 2, 3, 4) {
		op := new(pb.RequestOp)
		switch k := tw.rng.IntN(100); {
		case k < 1:
			// An empty operation.
		case k < 30 || onlyRanges:
			op.Request = &pb.RequestOp_RequestRange{RequestRange: tw.rangeRequest()}
		case k < 60:
			op.Request = &pb.RequestOp_RequestPut{RequestPut: tw.putRequest()}
		case k < 75 || depth == 0:
			op.Request = &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: tw.deleteRequest()}
		default:
			op.Request = &pb.RequestOp_RequestTxn{RequestTxn: tw.txnRequest(depth - 1)}
		}
		ops = append(ops, op)
	}
	return ops
}

// walkOps visits all operations of a transaction.
func walkOps(r *pb.TxnRequest, visit func(*pb.RequestOp)) {
	for _, op := range slices.Concat(r.Success, r.Failure) {
		visit(op)
		if t := op.GetRequestTxn(); t != nil {
			walkOps(t, visit)
		}
	}
}

// spare keeps the real server alive: it dies of a put that ignores the value or the lease of a key that
// was deleted before in the same transaction. Only deletions with an open end can get before such a put.
func spare(r *pb.TxnRequest) {
	open := false
	walkOps(r, func(op *pb.RequestOp) {
		open = open || string(op.GetRequestDeleteRange().GetRangeEnd()) == "\x00"
	})
	if !open {
		return
	}
	walkOps(r, func(op *pb.RequestOp) {
		if p := op.GetRequestPut(); p != nil {
			p.IgnoreValue, p.IgnoreLease = false, false
		}
	})
}

// seal keeps the real server alive, too: compacted to a revision in which a key was deleted and then put
// again, it loses the key, and dies when the key is read.
func (tw *twins) seal(_ context.Context, rev int64, events []*mvccpb.Event) {
	tw.mu.Lock()
	defer tw.mu.Unlock()
	deleted := make(map[string]bool)
	for _, ev := range events {
		if ev.Type == mvccpb.Event_DELETE {
			deleted[string(ev.Kv.Key)] = true
		} else if deleted[string(ev.Kv.Key)] {
			tw.sealed[rev] = true
		}
	}
}

// compactable is a revision to compact to, not too far from rev.
func (tw *twins) compactable(rev int64) int64 {
	tw.mu.Lock()
	defer tw.mu.Unlock()
	for tw.sealed[rev] {
		rev++
	}
	return rev
}

func (tw *twins) step() {
	ctx := tw.Context()
	switch k := tw.rng.IntN(1000); {
	case k < 300:
		r := tw.rangeRequest()
		same(tw, "range", r, func(s twin) (*pb.RangeResponse, error) { return s.kv.Range(ctx, r) })
	case k < 500:
		r := tw.putRequest()
		same(tw, "put", r, func(s twin) (*pb.PutResponse, error) { return s.kv.Put(ctx, r) })
	case k < 550:
		r := tw.deleteRequest()
		same(tw, "delete", r, func(s twin) (*pb.DeleteRangeResponse, error) { return s.kv.DeleteRange(ctx, r) })
	case k < 870:
		r := tw.txnRequest(3)
		spare(r)
		same(tw, "txn", r, func(s twin) (*pb.TxnResponse, error) { return s.kv.Txn(ctx, r) })
	case k < 873:
		tw.setNoSpace(tw.chance(10))
	case k < 880:
		r := &pb.CompactionRequest{Revision: tw.compactable(tw.revision()), Physical: tw.chance(50)}
		same(tw, "compact", r, func(s twin) (*pb.CompactionResponse, error) { return s.kv.Compact(ctx, r) })
	case k < 900:
		tw.stream(tw.rangeRequest())
	case k < 950:
		tw.stepOp()
	default:
		tw.stepLease()
	}
}

func (tw *twins) setNoSpace(on bool) {
	tw.etcd.SetNoSpace(on)
	tw.srv.SetNoSpace(on)
}

// stepLease does something to a lease.
func (tw *twins) stepLease() {
	ctx := tw.Context()
	switch tw.rng.IntN(8) {
	case 0, 1:
		r := &pb.LeaseGrantRequest{ID: int64(1 + tw.rng.IntN(1000)), TTL: pick[int64](tw.rng, 1000, 5000, 9_000_000_000, 9_000_000_001)}
		if resp, err := same(tw, "grant", r, func(s twin) (*pb.LeaseGrantResponse, error) { return s.lease.LeaseGrant(ctx, r) }); err == nil {
			tw.leases = append(tw.leases, resp.ID)
		}
	case 2:
		r := &pb.LeaseRevokeRequest{ID: tw.leaseID()}
		same(tw, "revoke", r, func(s twin) (*pb.LeaseRevokeResponse, error) { return s.lease.LeaseRevoke(ctx, r) })
	case 3, 4:
		r := &pb.LeaseKeepAliveRequest{ID: tw.leaseID()}
		same(tw, "keep-alive", r, func(s twin) (*pb.LeaseKeepAliveResponse, error) { return keepAlive(ctx, s, r) })
	case 5, 6:
		r := &pb.LeaseTimeToLiveRequest{ID: tw.leaseID(), Keys: tw.chance(50)}
		var ttl int64
		same(tw, "time to live", r, func(s twin) (*pb.LeaseTimeToLiveResponse, error) {
			resp, err := s.lease.LeaseTimeToLive(ctx, r)
			if got := resp.GetTTL(); got > 0 && max(got-ttl, ttl-got) <= 1 {
				resp.TTL = ttl // the second of them is asked a little later
			}
			ttl = resp.GetTTL()
			slices.SortFunc(resp.GetKeys(), slices.Compare)
			return resp, err
		})
	case 7:
		r := &pb.LeaseLeasesRequest{}
		same(tw, "leases", r, func(s twin) (*pb.LeaseLeasesResponse, error) {
			resp, err := s.lease.LeaseLeases(ctx, r)
			slices.SortFunc(resp.GetLeases(), func(a, b *pb.LeaseStatus) int { return int(a.ID - b.ID) })
			return resp, err
		})
	}
}

func keepAlive(ctx context.Context, s twin, r *pb.LeaseKeepAliveRequest) (*pb.LeaseKeepAliveResponse, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	st, err := s.lease.LeaseKeepAlive(ctx)
	if err != nil {
		return nil, err
	}
	if err := st.Send(r); err != nil {
		return nil, err
	}
	return st.Recv()
}

// stream compares a range that comes in pieces, piece by piece.
func (tw *twins) stream(r *pb.RangeRequest) {
	if r.SortTarget != pb.RangeRequest_KEY {
		r.SortOrder = pb.RangeRequest_ASCEND // refused, while NONE gives nonsense
	}
	read := func(s twin) ([]*pb.RangeResponse, error) {
		st, err := s.kv.RangeStream(tw.Context(), r, grpc.MaxCallRecvMsgSize(math.MaxInt32))
		if err != nil {
			return nil, err
		}
		var chunks []*pb.RangeResponse
		for {
			chunk, err := st.Recv()
			if errors.Is(err, io.EOF) {
				anonymous(chunks[len(chunks)-1])
				return chunks, nil
			}
			if err != nil {
				return nil, err
			}
			chunks = append(chunks, chunk.RangeResponse)
		}
	}
	tw.calls++
	want, wantErr := read(tw.real)
	got, gotErr := read(tw.mem)
	equal := slices.EqualFunc(want, got, func(a, b *pb.RangeResponse) bool { return proto.Equal(a, b) })
	if describe(wantErr) != describe(gotErr) || !equal {
		tw.Fatalf("range stream %v:\nmemetcd: %v %v\netcd:    %v %v", r, got, gotErr, want, wantErr)
	}
}

// stepOp does an operation through clientv3, with the errors that it makes of the server's.
func (tw *twins) stepOp() {
	op := tw.op(2)
	send := func(s twin) (proto.Message, error) {
		resp, err := s.cli.Do(tw.Context(), op)
		if err != nil {
			return nil, err
		}
		switch {
		case resp.Get() != nil:
			return (*pb.RangeResponse)(resp.Get()), nil
		case resp.Put() != nil:
			return (*pb.PutResponse)(resp.Put()), nil
		case resp.Del() != nil:
			return (*pb.DeleteRangeResponse)(resp.Del()), nil
		}
		return (*pb.TxnResponse)(resp.Txn()), nil
	}
	same(tw, fmt.Sprintf("Do %+v", op), nil, send)
}

func (tw *twins) op(depth int) clientv3.Op {
	var opts []clientv3.OpOption
	key := string(tw.key())
	switch k := tw.rng.IntN(4); {
	case k == 0:
		if tw.chance(20) {
			opts = append(opts, clientv3.WithLease(clientv3.LeaseID(tw.leaseID())))
		}
		return clientv3.OpPut(key, string(tw.value()), opts...)
	case k == 1 || k == 2 || depth == 0:
		opts = append(opts, pick(tw.rng, clientv3.WithPrefix(), clientv3.WithFromKey(), clientv3.WithRange("b")))
		if k == 1 {
			return clientv3.OpDelete(key, clientv3.WithPrefix(), clientv3.WithPrevKV())
		}
		if tw.chance(30) {
			opts = append(opts, clientv3.WithSort(clientv3.SortTarget(tw.rng.IntN(5)), clientv3.SortOrder(tw.rng.IntN(4))))
		}
		if tw.chance(30) {
			opts = append(opts, clientv3.WithRev(tw.revision()), clientv3.WithLimit(2))
		}
		return clientv3.OpGet(key, opts...)
	}
	cmp := clientv3.Compare(clientv3.Version(key), pick(tw.rng, "=", "!=", "<", ">"), tw.rng.IntN(3))
	return clientv3.OpTxn([]clientv3.Cmp{cmp},
		[]clientv3.Op{tw.op(depth - 1), tw.op(depth - 1)}, []clientv3.Op{tw.op(depth - 1)})
}

// theEnd is the last key that is put and deleted, so that a watch knows when it has seen everything.
const theEnd = "the end"

// finish ends the walk and returns the revision at which it ended.
func (tw *twins) finish() int64 {
	tw.setNoSpace(false)
	put, del := &pb.PutRequest{Key: []byte(theEnd)}, &pb.DeleteRangeRequest{Key: []byte(theEnd)}
	end, _ := same(tw, "put", put, func(s twin) (*pb.PutResponse, error) { return s.kv.Put(tw.Context(), put) })
	_, _ = same(tw, "delete", del, func(s twin) (*pb.DeleteRangeResponse, error) { return s.kv.DeleteRange(tw.Context(), del) })
	return end.Header.Revision
}

// history reads what a watch delivers up to theEnd, or to its error.
func history(wch clientv3.WatchChan) string {
	var b strings.Builder
	for resp := range wch {
		if err := resp.Err(); err != nil {
			fmt.Fprintf(&b, "%s, compacted at %d\n", describe(err), resp.CompactRevision)
			return b.String()
		}
		for _, ev := range resp.Events {
			if string(ev.Kv.Key) == theEnd {
				return b.String()
			}
			line, _ := proto.MarshalOptions{Deterministic: true}.Marshal(ev)
			fmt.Fprintf(&b, "%q\n", line)
		}
	}
	return b.String() + "ended early\n"
}

// watches starts a watch on everything in both and returns a function that compares what they deliver.
func (tw *twins) watches(what string, opts ...clientv3.OpOption) func() int {
	ctx, cancel := context.WithTimeout(tw.Context(), time.Minute)
	opts = append(opts, clientv3.WithFromKey())
	var got, want string
	var wg sync.WaitGroup
	real, mem := tw.real.cli.Watch(ctx, "\x00", opts...), tw.mem.cli.Watch(ctx, "\x00", opts...)
	wg.Go(func() { want = history(real) })
	wg.Go(func() { got = history(mem) })
	return func() int {
		tw.Helper()
		defer cancel()
		wg.Wait()
		if want != got {
			tw.Fatalf("%s:\nmemetcd:\n%s\netcd:\n%s", what, got, want)
		}
		return strings.Count(want, "\n")
	}
}

func TestMemetcdAnswersLikeEtcd(t *testing.T) {
	steps := 4000
	if testing.Short() {
		steps = 500
	}
	for seed := range uint64(4) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			tw := newTwins(t, seed)
			ctx := t.Context()
			live := tw.watches("live watch")
			filtered := tw.watches("live watch on deletions", clientv3.WithFilterPut())
			for range steps {
				tw.step()
			}
			end := tw.finish()
			rev := tw.compactable(end - 100)
			compact := &pb.CompactionRequest{Revision: rev, Physical: true}
			_, _ = same(tw, "compact", compact, func(s twin) (*pb.CompactionResponse, error) { return s.kv.Compact(ctx, compact) })

			t.Logf("%d calls, %d revisions, %d events live", tw.calls, end, live())
			t.Logf("%d deletions", filtered())
			tw.watches("watch from too long ago", clientv3.WithRev(rev-1))()
			tw.watches("watch from the compacted revision on", clientv3.WithRev(rev))()
			tw.watches("watch with previous values", clientv3.WithRev(rev+1), clientv3.WithPrevKV())()
			tw.watches("watch in fragments", clientv3.WithRev(rev+20), clientv3.WithFragment(), clientv3.WithFilterDelete())()
			tw.logErrors()
		})
	}
}

func (tw *twins) logErrors() {
	for _, desc := range slices.Sorted(maps.Keys(tw.errs)) {
		tw.Logf("%5d %s", tw.errs[desc], desc)
	}
}

// TestMemetcdRefusesLikeEtcd walks as a user with few rights and as root by turns.
func TestMemetcdRefusesLikeEtcd(t *testing.T) {
	perms := []permission{
		{"a", "b", true, false}, {"a\xff", "bb", true, true}, {"b", "", false, true},
		{"c", "", true, true}, {"\xff", "\x00", true, false},
	}
	var rights []etcdtest.Right
	for _, p := range perms {
		kind := clientv3.PermReadWrite
		if !p.write {
			kind = clientv3.PermRead
		} else if !p.read {
			kind = clientv3.PermWrite
		}
		rights = append(rights, etcdtest.Right{Key: p.key, End: p.end, Type: clientv3.PermissionType(kind)})
	}
	tw := newTwins(t, 10,
		etcdtest.Auth(etcdtest.User{Name: "user", Password: "secret", Rights: rights}),
		etcdtest.Embed(func(cfg *embed.Config) { cfg.BcryptCost = 4 }))
	tw.proper = true
	root, memRoot := tw.real, tw.mem
	user := realTwin(tw.etcd.Client(0, etcdtest.As("user", "secret")))
	memUser, conn := memTwin(tw.srv)
	conn.Deny(func(key, end []byte, write bool) bool { return !allowed(perms, key, end, write) })

	for range 3000 {
		tw.real, tw.mem = root, memRoot
		if tw.chance(60) {
			tw.real, tw.mem = user, memUser
		}
		tw.step()
	}
	tw.logErrors()
	tw.real, tw.mem = user, memUser
	tw.watches("watch without rights")()
	tw.real, tw.mem = root, memRoot
	end := tw.finish()
	tw.watches("watch with rights", clientv3.WithRev(end-10))()
}

// permission is some keys and what may be done with them.
type permission struct {
	key, end    string
	read, write bool
}

// allowed reports whether the permissions together cover every key from key to end.
func allowed(perms []permission, key, end []byte, write bool) bool {
	covered := func(k string) (end string, ok bool) { // up to where, "" for no end
		for _, p := range perms {
			in := k == p.key || p.end != "" && k >= p.key && (p.end == "\x00" || k < p.end)
			if !in || write && !p.write || !write && !p.read {
				continue
			}
			switch {
			case p.end == "\x00":
				return "", true
			case p.end == "" && !ok:
				end, ok = k+"\x00", true
			case p.end > end:
				end, ok = p.end, true
			}
		}
		return end, ok
	}
	at, ok := covered(string(key))
	if len(end) == 0 {
		return ok
	}
	for ok && at != "" && (string(end) == "\x00" || at < string(end)) {
		at, ok = covered(at)
	}
	return ok
}

// TestMemetcdSizeLimits puts values around the limits of the server and of the client.
func TestMemetcdSizeLimits(t *testing.T) {
	tw := newTwins(t, 0)
	for _, size := range []int{1<<20 + 1<<19 - 100, 1<<20 + 1<<19 - 10, 1<<20 + 1<<19, 2<<20 - 50, 2<<20 + 1} {
		what := fmt.Sprintf("put of %d bytes", size)
		_, _ = same(tw, what, nil, func(s twin) (*pb.PutResponse, error) {
			resp, err := s.cli.Put(t.Context(), "k", strings.Repeat("x", size))
			return (*pb.PutResponse)(resp), err
		})
		_, _ = same(tw, what+" in a transaction", nil, func(s twin) (*pb.TxnResponse, error) {
			resp, err := s.cli.Txn(t.Context()).Then(clientv3.OpPut("k", strings.Repeat("x", size))).Commit()
			return (*pb.TxnResponse)(resp), err
		})
		_, _ = same(tw, what+" that is read only", nil, func(s twin) (*pb.TxnResponse, error) {
			cmp := clientv3.Compare(clientv3.Value("k"), "=", strings.Repeat("x", size))
			resp, err := s.cli.Txn(t.Context()).If(cmp).Then(clientv3.OpGet("k", clientv3.WithCountOnly())).Commit()
			return (*pb.TxnResponse)(resp), err
		})
	}
}

// TestMemetcdStreamsRanges compares the pieces of large ranges.
func TestMemetcdStreamsRanges(t *testing.T) {
	tw := newTwins(t, 0)
	for i := range 300 {
		put := &pb.PutRequest{Key: fmt.Appendf(nil, "%03d", i), Value: make([]byte, 1<<(i/17))}
		_, _ = same(tw, "put", nil, func(s twin) (*pb.PutResponse, error) { return s.kv.Put(t.Context(), put) })
	}
	for _, limit := range []int64{0, 9, 10, 11, 70, 71, 299, 300} {
		for _, key := range []string{"000", "123"} {
			tw.stream(&pb.RangeRequest{Key: []byte(key), RangeEnd: []byte("\x00"), Limit: limit})
			tw.stream(&pb.RangeRequest{Key: []byte(key), RangeEnd: []byte("\x00"), Limit: limit, KeysOnly: true})
		}
	}
}

// watchTwins are two watch streams to which the same is said.
type watchTwins struct {
	*twins
	real, mem pb.Watch_WatchClient
}

func (tw *twins) watchStreams(ctx context.Context) *watchTwins {
	real, err := tw.real.watch.Watch(ctx)
	if err != nil {
		tw.Fatal(err)
	}
	mem, err := tw.mem.watch.Watch(ctx)
	if err != nil {
		tw.Fatal(err)
	}
	return &watchTwins{tw, real, mem}
}

func (wt *watchTwins) send(r *pb.WatchRequest) {
	if err := errors.Join(wt.real.Send(r), wt.mem.Send(r)); err != nil {
		wt.Fatal(err)
	}
}

func (wt *watchTwins) create(r *pb.WatchCreateRequest) {
	wt.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: r}})
}

func (wt *watchTwins) cancel(id int64) {
	r := &pb.WatchCancelRequest{WatchId: id}
	wt.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: r}})
}

func (wt *watchTwins) progress() {
	r := new(pb.WatchProgressRequest)
	wt.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: r}})
}

// expect compares the next n messages. Those to different watches may come in any order, as they do
// from etcd.
func (wt *watchTwins) expect(n int) {
	wt.Helper()
	want, got := wt.recv(wt.real, n), wt.recv(wt.mem, n)
	for i := range n {
		if !proto.Equal(want[i], got[i]) {
			wt.Fatalf("message %d of %d:\nmemetcd: %v\netcd:    %v", i, n, got[i], want[i])
		}
	}
}

func (wt *watchTwins) recv(st pb.Watch_WatchClient, n int) []*pb.WatchResponse {
	wt.Helper()
	var resps []*pb.WatchResponse
	for range n {
		resp, err := st.Recv()
		if err != nil {
			wt.Fatal(err)
		}
		anonymous(resp)
		resps = append(resps, resp)
	}
	slices.SortStableFunc(resps, func(a, b *pb.WatchResponse) int { return int(a.WatchId - b.WatchId) })
	return resps
}

// putAll puts the same value to each key, one after the other.
func (tw *twins) putAll(value string, keys ...string) {
	tw.Helper()
	for _, key := range keys {
		r := &pb.PutRequest{Key: []byte(key), Value: []byte(value)}
		_, _ = same(tw, "put to "+key, nil, func(s twin) (*pb.PutResponse, error) { return s.kv.Put(tw.Context(), r) })
	}
}

// TestMemetcdWatchProtocol compares the messages on a watch stream one by one.
func TestMemetcdWatchProtocol(t *testing.T) {
	tw := newTwins(t, 0)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tw.putAll("1", "a", "b", "a", "c", "b") // revisions 2 to 6
	compact := &pb.CompactionRequest{Revision: 4, Physical: true}
	_, _ = same(tw, "compact", compact, func(s twin) (*pb.CompactionResponse, error) { return s.kv.Compact(ctx, compact) })
	a, b, open := []byte("a"), []byte("b"), []byte("\x00")

	wt := tw.watchStreams(ctx)
	wt.progress() // nothing to tell
	wt.create(&pb.WatchCreateRequest{Key: a})
	wt.expect(1)
	wt.create(&pb.WatchCreateRequest{Key: a, WatchId: 7})
	wt.expect(1)
	wt.create(&pb.WatchCreateRequest{Key: a, WatchId: 7}) // taken
	wt.expect(1)
	wt.create(&pb.WatchCreateRequest{Key: b, RangeEnd: a}) // empty
	wt.expect(1)
	wt.create(&pb.WatchCreateRequest{Key: b, RangeEnd: b}) // empty
	wt.expect(1)
	wt.create(&pb.WatchCreateRequest{Key: b, StartRevision: -1})
	wt.expect(1)
	wt.create(&pb.WatchCreateRequest{Key: b, StartRevision: 3}) // compacted; its id is 1
	wt.expect(2)
	wt.progress() // not while there is a compacted watch
	wt.create(&pb.WatchCreateRequest{RangeEnd: open, StartRevision: 4, PrevKv: true})
	wt.expect(2)
	wt.cancel(1)
	wt.expect(1)
	wt.progress()
	wt.expect(1)
	wt.cancel(99) // there is none
	wt.cancel(7)
	wt.expect(1)
	wt.create(&pb.WatchCreateRequest{
		Key: b, RangeEnd: []byte("d"), Filters: []pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_NOPUT},
	})
	wt.expect(1)
	tw.putAll("2", "a", "b", "c") // revisions 7 to 9
	wt.expect(4)
	del := &pb.DeleteRangeRequest{Key: a, RangeEnd: []byte("c")}
	_, _ = same(tw, "delete", del, func(s twin) (*pb.DeleteRangeResponse, error) { return s.kv.DeleteRange(ctx, del) })
	wt.expect(3)
	wt.create(&pb.WatchCreateRequest{Key: a, StartRevision: 12}) // the next revision but one
	wt.expect(1)
	wt.progress() // not before it has begun
	tw.putAll("3", "a")
	wt.expect(2)
	tw.putAll("4", "a")
	wt.expect(3)
	wt.progress()
	wt.expect(1)

	tw.putAll(strings.Repeat("x", 900<<10), "x", "x", "x")
	wt.expect(3)
	wt.create(&pb.WatchCreateRequest{Key: []byte("x"), StartRevision: 4, Fragment: true})
	wt.expect(3)
}

// TestMemetcdCompactsLikeEtcd: of a key that one transaction puts and deletes again, a compaction to its
// revision leaves the deletion only.
func TestMemetcdCompactsLikeEtcd(t *testing.T) {
	tw := newTwins(t, 0)
	ctx := t.Context()
	tw.putAll("1", "a", "b")
	nested := func(op clientv3.Op) clientv3.Op { return clientv3.OpTxn(nil, []clientv3.Op{op}, nil) }
	before := tw.watches("before the compaction")
	_, _ = same(tw, "txn", nil, func(s twin) (*pb.TxnResponse, error) {
		resp, err := s.cli.Txn(ctx).Then(nested(clientv3.OpPut("a", "2")), nested(clientv3.OpDelete("a"))).Commit()
		return (*pb.TxnResponse)(resp), err
	})
	compact := &pb.CompactionRequest{Revision: 4, Physical: true}
	_, _ = same(tw, "compact", compact, func(s twin) (*pb.CompactionResponse, error) { return s.kv.Compact(ctx, compact) })
	tw.finish()
	if n := before(); n != 2 {
		t.Errorf("%d events live, want 2", n)
	}
	if n := tw.watches("after the compaction", clientv3.WithRev(4), clientv3.WithPrevKV())(); n != 1 {
		t.Errorf("%d events, want 1", n)
	}
}

// TestMemetcdLeases compares what clientv3 makes of leases that it names itself.
func TestMemetcdLeases(t *testing.T) {
	tw := newTwins(t, 0)
	ctx := t.Context()
	for _, ttl := range []int64{-5, 0, 1, 2, 3, 60, 9_000_000_001} {
		var answers []string
		for _, s := range []twin{tw.real, tw.mem} {
			grant, err := s.cli.Grant(ctx, ttl)
			if err != nil {
				answers = append(answers, describe(err))
				continue
			}
			once, onceErr := s.cli.KeepAliveOnce(ctx, grant.ID)
			put, putErr := s.cli.Put(ctx, "k", "v", clientv3.WithLease(grant.ID))
			revoke, revokeErr := s.cli.Revoke(ctx, grant.ID)
			_, again := s.cli.Revoke(ctx, grant.ID)
			gone, goneErr := s.cli.KeepAliveOnce(ctx, grant.ID)
			left, leftErr := s.cli.TimeToLive(ctx, grant.ID, clientv3.WithAttachedKeys())
			answers = append(answers, fmt.Sprint(
				grant.Revision, grant.TTL, grant.Error, once.Revision, once.TTL, onceErr,
				put.Header.Revision, putErr, revoke.Header.Revision, revokeErr, describe(again),
				gone.Revision, gone.TTL, describe(goneErr), left.TTL, left.GrantedTTL, left.Keys, left.Revision, leftErr,
			))
		}
		if answers[0] != answers[1] {
			t.Errorf("TTL %d:\nmemetcd: %s\netcd:    %s", ttl, answers[1], answers[0])
		}
	}
}
