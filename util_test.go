package leasing

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// ---- Ranges

// words returns every string of up to n letters, in no particular order.
func words(n int, letters string) []string {
	all := []string{""}
	for last := all; n > 0; n-- {
		var longer []string
		for _, w := range last {
			for _, l := range letters {
				longer = append(longer, w+string(l))
			}
		}
		all, last = append(all, longer...), longer
	}
	return all
}

// smallRanges are all ranges between short keys, open and empty ones too.
func smallRanges() []keyRange {
	var rs []keyRange
	for _, b := range words(2, "\x00ab") {
		for _, e := range words(2, "\x00ab") {
			rs = append(rs, keyRange{b, e})
		}
	}
	return rs
}

func TestKeyRangeContains(t *testing.T) {
	for _, tc := range []struct {
		r       keyRange
		in, out []string
	}{
		{keyRange{"b", "d"}, []string{"b", "b\x00", "c", "czz"}, []string{"", "a", "azz", "d", "d\x00", "e"}},
		{keyRange{"b", openEnd}, []string{"b", "c", "\xff\xff"}, []string{"", "a", "a\xff"}},
		{keyRange{"\x00", openEnd}, []string{"\x00", "a", "\xff"}, []string{""}},
		{keyRange{"b", "b"}, nil, []string{"a", "b", "c"}},
		{keyRange{"c", "b"}, nil, []string{"a", "b", "bb", "c"}},
		{keyRange{"b", ""}, nil, []string{"", "a", "b"}},
	} {
		for _, k := range tc.in {
			if !tc.r.contains(k) {
				t.Errorf("%q does not contain %q", tc.r, k)
			}
		}
		for _, k := range tc.out {
			if tc.r.contains(k) {
				t.Errorf("%q contains %q", tc.r, k)
			}
		}
	}
}

// A range that holds a key at all holds its first; two that share a key share
// the first of one of them. So looking at short keys decides both.
func TestKeyRangeEmptyAndOverlaps(t *testing.T) {
	rs, keys := smallRanges(), words(2, "\x00ab")
	meet := func(a, b keyRange) bool {
		for _, k := range keys {
			if a.contains(k) && b.contains(k) {
				return true
			}
		}
		return false
	}
	for _, a := range rs {
		if got, want := a.empty(), !meet(a, a); got != want {
			t.Errorf("%q.empty() = %v", a, got)
		}
		for _, b := range rs {
			if got, want := a.overlaps(b), meet(a, b); got != want {
				t.Fatalf("%q.overlaps(%q) = %v, want %v", a, b, got, want)
			}
		}
	}
}

// someKeysAndRanges picks up to two of each, at least one in all.
func someKeysAndRanges(rng *rand.Rand, keys []string, rs []keyRange) (points []string, ranges []keyRange) {
	for range rng.IntN(3) {
		points = append(points, keys[rng.IntN(len(keys))])
	}
	for n := rng.IntN(3); n > 0 || len(points)+len(ranges) == 0; n-- {
		ranges = append(ranges, rs[rng.IntN(len(rs))])
	}
	return points, ranges
}

// heldByOne reports whether key is in one of ranges, whatever their order.
func heldByOne(key string, ranges []keyRange) bool {
	return slices.ContainsFunc(ranges, func(r keyRange) bool { return r.contains(key) })
}

func TestHullIsTheSmallestCover(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	keys := words(3, "\x00ab")[1:] // etcd has no key ""
	var rs []keyRange              // a plan has no empty ones
	for _, r := range smallRanges() {
		if !r.empty() {
			rs = append(rs, r)
		}
	}
	for range 300 {
		points, ranges := someKeysAndRanges(rng, keys, rs)
		needed := func(r keyRange) bool {
			for _, k := range keys {
				if (heldByOne(k, ranges) || slices.Contains(points, k)) && !r.contains(k) {
					return false
				}
			}
			return true
		}
		h := cover(points, ranges, 1)[0]
		if !needed(h) {
			t.Fatalf("cover(%q, %q, 1) = %q does not cover them", points, ranges, h)
		}
		for _, r := range rs {
			if !needed(r) {
				continue
			}
			for _, k := range keys {
				if h.contains(k) && !r.contains(k) {
					t.Fatalf("cover(%q, %q, 1) = %q, but %q would do", points, ranges, h, r)
				}
			}
		}
	}
}

func TestUnionIsDisjointAndTheSame(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	keys, rs := words(3, "\x00ab"), smallRanges()
	for range 2000 {
		var ranges []keyRange
		for range rng.IntN(5) {
			ranges = append(ranges, rs[rng.IntN(len(rs))])
		}
		before := slices.Clone(ranges)
		u := union(ranges)
		if !slices.Equal(ranges, before) {
			t.Fatalf("union(%q) has changed its argument: %q", before, ranges)
		}
		for i, r := range u {
			if r.empty() || i > 0 && (u[i-1].end == openEnd || u[i-1].end >= r.begin) {
				t.Fatalf("union(%q) = %q: empty, touching, or out of order", ranges, u)
			}
		}
		for _, k := range keys {
			if contained(k, u) != heldByOne(k, ranges) {
				t.Fatalf("union(%q) = %q differs at %q", ranges, u, k)
			}
		}
	}
}

// ---- Replies

// plainReply is what etcd answers to a get of key with shape o, if it is as kv
// says; the header is left out.
func plainReply(o shape, kv *mvccpb.KeyValue) *etcdserverpb.RangeResponse {
	r := new(etcdserverpb.RangeResponse)
	if kv == nil {
		return r
	}
	r.Count = 1
	within := func(rev, lo, hi int64) bool { return rev >= lo && (hi == 0 || rev <= hi) }
	if o.countOnly || !within(kv.ModRevision, o.minMod, o.maxMod) || !within(kv.CreateRevision, o.minCreate, o.maxCreate) {
		return r
	}
	shown := proto.Clone(kv).(*mvccpb.KeyValue)
	if o.keysOnly {
		shown.Value = nil
	}
	r.Kvs = []*mvccpb.KeyValue{shown}
	return r
}

func TestI11RepliesAreTheServers(t *testing.T) {
	keys := []*mvccpb.KeyValue{
		nil,
		{Key: []byte("key"), CreateRevision: 5, ModRevision: 7, Version: 2, Value: []byte("value")},
		{Key: []byte("key"), CreateRevision: 5, ModRevision: 5, Version: 1},
	}
	for _, kv := range keys {
		for flags := range 4 {
			for _, filter := range [][4]int64{{}, {5}, {6}, {7}, {8}, {0, 4}, {0, 5}, {0, 7}, {0, 0, 5}, {0, 0, 6}, {0, 0, 0, 4}, {0, 0, 0, 5}, {6, 7, 5, 5}, {-1, 9, -3, 9}} {
				op := clientv3.OpGet("key", clientv3.WithMinModRev(filter[0]), clientv3.WithMaxModRev(filter[1]),
					clientv3.WithMinCreateRev(filter[2]), clientv3.WithMaxCreateRev(filter[3]))
				if flags&1 != 0 {
					clientv3.WithKeysOnly()(&op)
				}
				if flags&2 != 0 {
					clientv3.WithCountOnly()(&op)
				}
				got := proto.Clone(&shapeOf(&op).reply("key", newSnapshot(kv, 9, nil)).resp).(*etcdserverpb.RangeResponse)
				if got.Header == nil {
					t.Fatal("the reply has no header")
				}
				got.Header = nil
				if want := plainReply(shapeOf(&op), kv); !proto.Equal(got, want) {
					t.Errorf("reply of %v to %+v:\n got %v\nwant %v", kv, shapeOf(&op), got, want)
				}
			}
		}
	}
}

func TestI11WhatIsAPointRead(t *testing.T) {
	for _, tc := range []struct {
		op   clientv3.Op
		want bool
	}{
		{clientv3.OpGet("k"), true},
		{clientv3.OpGet("k", clientv3.WithLimit(1)), true},
		{clientv3.OpGet("k", clientv3.WithKeysOnly(), clientv3.WithSerializable()), true},
		{clientv3.OpGet("k", clientv3.WithSort(clientv3.SortByKey, clientv3.SortAscend)), true},
		{clientv3.OpGet(""), false},
		{clientv3.OpGet("k", clientv3.WithRange("l")), false},
		{clientv3.OpGet("k", clientv3.WithPrefix()), false},
		{clientv3.OpGet("k", clientv3.WithFromKey()), false},
		{clientv3.OpGet("k", clientv3.WithRev(3)), false},
		{clientv3.OpGet("k", clientv3.WithSort(clientv3.SortTarget(9), clientv3.SortAscend)), false},
		{clientv3.OpPut("k", "v"), false},
		{clientv3.OpDelete("k"), false},
		{clientv3.OpTxn(nil, nil, nil), false},
	} {
		if got := isPoint(&tc.op); got != tc.want {
			t.Errorf("isPoint(%+v) = %v", tc.op, got)
		}
	}
}

// Invariant I12. Wherever a reply has room for them, key and value are what etcd
// said, and neither runs into the other. So it is for both who build replies.
func TestI12RepliesOfAllSizes(t *testing.T) {
	for _, build := range []func(string, *snapshot) *rangeReply{
		shape{}.reply,
		func(key string, s *snapshot) *rangeReply { // as transactions do
			r := new(opReply)
			fill(&r.rangeReply, r.text[:], shape{}, []byte(key), s)
			return &r.rangeReply
		},
	} {
		for _, k := range []int{1, 16, 31, 32, 33, smallText - 1, smallText, smallText + 1, 500} {
			for _, v := range []int{0, 1, smallValue, smallValue + 1, smallText, 2000} {
				key, value := strings.Repeat("k", k), bytes.Repeat([]byte("v"), v)
				s := newSnapshot(&mvccpb.KeyValue{Key: []byte(key), Version: 1, Value: value}, 9, nil)
				for range 2 {
					got := build(key, s).resp.Kvs[0]
					_ = append(append(got.Key, "overwritten"...), got.Value...)
					if string(got.Key) != key || !bytes.Equal(got.Value, value) {
						t.Fatalf("%d B of key, %d B of value: read %q = %q", k, v, got.Key, got.Value)
					}
					clear(got.Key)
					clear(got.Value[:cap(got.Value)])
				}
			}
		}
	}
}

// What a transaction was given does not change with the caller's copy of it.
func TestComparisonsAreCopied(t *testing.T) {
	extra := &etcdserverpb.Compare{Key: []byte("k")}
	extra.ProtoReflect().SetUnknown([]byte{0xf8, 0x7f, 1}) // a field of a later etcd
	for _, c := range []clientv3.Cmp{
		{}, clientv3.FromCompare(extra),
		clientv3.Compare(clientv3.Value("k"), "=", "v"), clientv3.Compare(clientv3.Version("k"), ">", 3),
		clientv3.Compare(clientv3.CreateRevision("k"), ">", 3), clientv3.Compare(clientv3.ModRevision("k"), ">", 3),
		clientv3.Compare(clientv3.LeaseValue("k"), "!=", 3).WithRange("l"),
	} {
		was := c.Clone()
		got := cloneCmp(&c)
		for _, b := range [][]byte{c.GetCompare().Key, c.GetCompare().RangeEnd, c.ValueBytes()} {
			clear(b)
		}
		switch u := c.GetCompare().TargetUnion.(type) {
		case *etcdserverpb.Compare_Version:
			u.Version++
		case *etcdserverpb.Compare_CreateRevision:
			u.CreateRevision++
		case *etcdserverpb.Compare_ModRevision:
			u.ModRevision++
		case *etcdserverpb.Compare_Value:
			u.Value = nil
		case *etcdserverpb.Compare_Lease:
			u.Lease++
		}
		c.GetCompare().Result = 9
		if !proto.Equal(got.GetCompare(), was.GetCompare()) {
			t.Errorf("got %v, want %v", got.GetCompare(), was.GetCompare())
		}
	}
}

func TestI12RepliesShareNoMemory(t *testing.T) {
	kv := &mvccpb.KeyValue{Key: []byte("key"), CreateRevision: 5, ModRevision: 7, Version: 2, Value: []byte("value")}
	s := newSnapshot(kv, 9, nil)
	for range 2 {
		r := shape{}.reply("key", s)
		got := r.resp.Kvs[0]
		if string(got.Key) != "key" || string(got.Value) != "value" || r.resp.Count != 1 || len(r.resp.Kvs) != 1 {
			t.Fatalf("read %v", &r.resp)
		}
		_ = append(got.Key, "overwritten"...)
		if string(got.Value) != "value" {
			t.Fatalf("appending to the key of a reply has changed its value: %q", got.Value)
		}
		_ = append(r.resp.Kvs, &mvccpb.KeyValue{})
		for _, b := range [][]byte{got.Key[:cap(got.Key)], got.Value[:cap(got.Value)]} {
			for i := range b {
				b[i] ^= 0xff
			}
		}
		got.ModRevision, got.CreateRevision, got.Version, got.Lease = -1, -1, -1, -1
		r.resp.Header.Revision, r.resp.Count = -1, -1
	}
	if string(kv.Value) != "value" || s.mod != 7 || s.create != 5 || s.version != 2 {
		t.Errorf("changing a reply has changed the cache: %+v", s)
	}
}

func TestHeadersAreCopied(t *testing.T) {
	from := &etcdserverpb.ResponseHeader{ClusterId: 1, MemberId: 2, Revision: 3, RaftTerm: 4}
	c := copyHeader(from)
	if !proto.Equal(c, from) || c == from {
		t.Errorf("copyHeader(%v) = %v", from, c)
	}
	h := &etcdserverpb.ResponseHeader{}
	setHeader(h, from, 9)
	if want := (&etcdserverpb.ResponseHeader{ClusterId: 1, MemberId: 2, Revision: 9, RaftTerm: 4}); !proto.Equal(h, want) {
		t.Errorf("setHeader: %v, want %v", h, want)
	}
	h = &etcdserverpb.ResponseHeader{}
	setHeader(h, nil, 9)
	if want := (&etcdserverpb.ResponseHeader{Revision: 9}); !proto.Equal(h, want) {
		t.Errorf("setHeader from nothing: %v, want %v", h, want)
	}
}

// ---- Outcomes

func TestI3OutcomeOf(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want outcome
	}{
		{nil, applied},

		{rpctypes.ErrEmptyKey, refused},
		{rpctypes.ErrKeyNotFound, refused},
		{rpctypes.ErrValueProvided, refused},
		{rpctypes.ErrLeaseProvided, refused},
		{rpctypes.ErrTooManyOps, refused},
		{rpctypes.ErrDuplicateKey, refused},
		{rpctypes.ErrInvalidSortOption, refused},
		{rpctypes.ErrCompacted, refused},
		{rpctypes.ErrFutureRev, refused},
		{rpctypes.ErrLeaseNotFound, refused},
		{rpctypes.ErrRequestTooLarge, refused},
		{rpctypes.ErrUserEmpty, refused},
		{rpctypes.ErrPermissionDenied, refused},
		{rpctypes.ErrInvalidAuthToken, refused},
		{status.Error(codes.ResourceExhausted, "trying to send message larger than max (3145790 vs. 2097152)"), refused},

		{rpctypes.ErrNoSpace, unknown},
		{rpctypes.ErrTooManyRequests, unknown},
		{rpctypes.ErrTimeout, unknown},
		{rpctypes.ErrTimeoutDueToLeaderFail, unknown},
		{rpctypes.ErrTimeoutDueToConnectionLost, unknown},
		{rpctypes.ErrNoLeader, unknown},
		{rpctypes.ErrNotLeader, unknown},
		{rpctypes.ErrLeaderChanged, unknown},
		{rpctypes.ErrStopped, unknown},
		{rpctypes.ErrUnhealthy, unknown},
		{rpctypes.ErrCorrupt, unknown},
		{rpctypes.ErrGRPCNotCapable, unknown},
		{rpctypes.ErrLeaseExist, unknown}, // no answer to a write
		{context.Canceled, unknown},
		{context.DeadlineExceeded, unknown},
		{status.Error(codes.Unavailable, "connection reset"), unknown},
		{status.Error(codes.Unknown, "what?"), unknown},
		{status.Error(codes.Internal, "stream terminated"), unknown},
		{status.Error(codes.Canceled, "context canceled"), unknown},
		{status.Error(codes.DeadlineExceeded, "context deadline exceeded"), unknown},
		{status.Error(codes.ResourceExhausted, "grpc: received message larger than max (5000000 vs. 4194304)"), unknown},
		{status.Error(codes.InvalidArgument, "some proxy's opinion"), unknown},
		{status.Error(codes.PermissionDenied, "some proxy's opinion"), unknown},
		{errors.New("anything else"), unknown},
	} {
		if got := outcomeOf(tc.err); got != tc.want {
			t.Errorf("outcomeOf(%v) = %v, want %v", tc.err, got, tc.want)
		}
		if tc.err == nil {
			continue
		}
		// An error may have come through a client that wraps it.
		if got := outcomeOf(fmt.Errorf("wrapped: %w", tc.err)); got != tc.want {
			t.Errorf("outcomeOf(wrapped %v) = %v, want %v", tc.err, got, tc.want)
		}
		// And as a bare gRPC error, from a KV below the client's own layers.
		var e rpctypes.EtcdError
		if errors.As(tc.err, &e) {
			raw := status.Error(e.Code(), e.Error())
			if got := outcomeOf(raw); got != tc.want {
				t.Errorf("outcomeOf(%v) as it comes from gRPC = %v, want %v", tc.err, got, tc.want)
			}
		}
	}
}

func TestIsAnswer(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want bool
	}{
		{rpctypes.ErrPermissionDenied, true},
		{rpctypes.ErrNoSpace, true},
		{rpctypes.ErrLeaseTTLTooLarge, true},
		{rpctypes.ErrGRPCPermissionDenied, true},
		{rpctypes.ErrNoLeader, false},
		{rpctypes.ErrTimeout, false},
		{context.Canceled, false},
		{context.DeadlineExceeded, false},
		{status.Error(codes.Unavailable, "connection refused"), false},
		{errors.New("anything else"), false},
	} {
		if got := isAnswer(tc.err); got != tc.want {
			t.Errorf("isAnswer(%v) = %v", tc.err, got)
		}
	}
}

func TestIsRefusedWatch(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want bool
	}{
		{errors.New("rpc error: code = PermissionDenied desc = etcdserver: permission denied"), true},
		{errors.New("rpc error: code = InvalidArgument desc = etcdserver: user name is empty"), true},
		{rpctypes.ErrPermissionDenied, true},
		{rpctypes.ErrInvalidAuthToken, true},
		{rpctypes.ErrAuthFailed, true},
		{rpctypes.ErrNoLeader, false},
		{rpctypes.ErrCompacted, false},
		{context.Canceled, false},
		{errors.New("leasing: watch ended"), false},
	} {
		if got := isRefusedWatch(tc.err); got != tc.want {
			t.Errorf("isRefusedWatch(%v) = %v", tc.err, got)
		}
	}
}

func TestBackoffBounds(t *testing.T) {
	for range 50 {
		b := backoff{first: 100 * time.Millisecond, last: 2 * time.Second}
		for round := range 2 {
			for _, most := range []time.Duration{100, 200, 400, 800, 1600, 2000, 2000, 2000} {
				most *= time.Millisecond
				if got := b.pause(); got < most/2 || got > most {
					t.Fatalf("round %d: pause %v, want %v to %v", round, got, most/2, most)
				}
			}
			b.reset()
		}
	}
}

func TestBackoffJitters(t *testing.T) {
	seen := make(map[time.Duration]bool)
	for range 20 {
		b := backoff{first: time.Second, last: time.Second}
		seen[b.pause()] = true
	}
	if len(seen) == 1 {
		t.Error("twenty loops would try again at the same instant")
	}
}

// ---- Claim ranges

// FuzzClaimRange checks what becomes of any range of keys under any prefix. An
// empty end is a single key, and an end that is not above begin is no key.
func FuzzClaimRange(f *testing.F) {
	f.Fuzz(func(t *testing.T, prefix, begin, end, key string) {
		if prefix == "" || begin == "" {
			return // refused by Config; refused by etcd
		}
		checkClaimRange(t, newLayout(prefix), begin, end, nearby(prefix, begin, end, key))
	})
}

func TestClaimRanges(t *testing.T) {
	keys := words(4, "\x00a\x7f")
	for _, prefix := range []string{"a", "\x00", "\x7f", "a\x7f", "\xff"} {
		for _, begin := range words(2, "\x00a\x7f")[1:] {
			for _, end := range words(2, "\x00a\x7f") {
				checkClaimRange(t, newLayout(prefix), begin, end, keys)
			}
		}
	}
}

// nearby are the keys at which a range that has to do with the given ones may
// end: they themselves, those next to them, and the claims of all these.
func nearby(prefix string, keys ...string) (all []string) {
	all = append(all, prefix, clientv3.GetPrefixRangeEnd(prefix))
	for _, k := range append(keys, all...) {
		all = append(all, k, k+"\x00", k+"\xff")
		if n := len(k); n > 0 {
			all = append(all, k[:n-1], k[:n-1]+string(k[n-1]-1), k[:n-1]+string(k[n-1]-1)+"\xff")
		}
	}
	for _, k := range all {
		all = append(all, prefix+k)
	}
	return all
}

// checkClaimRange compares what l makes of the keys from begin to end, as etcd
// means these, with what it is to be, at each of the given etcd keys: a guard
// and a listing that name the claims of exactly these keys, and deletions of
// exactly those of them that are no claims.
func checkClaimRange(t *testing.T, l layout, begin, end string, keys []string) {
	t.Helper()
	r := keyRange{begin, end}
	guard, parts := l.holds(begin, 0), []keyRange(nil)
	if end != "" {
		guard, parts = l.unclaimedSince(r, 7), l.spare(r)
		list := l.claimsSince(r, 7)
		if c := guard.GetCompare(); !bytes.Equal(list.KeyBytes(), c.Key) || !bytes.Equal(list.RangeBytes(), c.RangeEnd) {
			t.Fatalf("prefix %q: the claims of %q are listed from %q to %q, and guarded by %v", l.prefix, r, list.KeyBytes(), list.RangeBytes(), c)
		}
	}
	for _, key := range keys {
		claimed, under := strings.CutPrefix(key, l.prefix)
		if l.reserved(key) != under {
			t.Fatalf("prefix %q: reserved(%q) = %v", l.prefix, key, !under)
		}
		c := guard.GetCompare()
		if got, want := named(key, string(c.Key), string(c.RangeEnd)), under && named(claimed, begin, end); got != want {
			t.Fatalf("prefix %q: the guard of %q covers the etcd key %q: %v, want %v: %v", l.prefix, r, key, got, want, c)
		}
		if end == "" {
			continue
		}
		if r.contains(key) != named(key, begin, end) {
			t.Fatalf("%q.contains(%q) = %v", r, key, r.contains(key))
		}
		var holding int
		for _, p := range parts {
			if named(key, p.begin, p.end) {
				holding++
			}
		}
		if want := named(key, begin, end) && !under; holding > 1 || (holding == 1) != want {
			t.Fatalf("prefix %q: spare(%q) = %q deletes %q %d times", l.prefix, r, parts, key, holding)
		}
	}
	for i, p := range parts {
		if i > 0 && p.begin < parts[i-1].end {
			t.Fatalf("prefix %q: spare(%q) = %q, out of order", l.prefix, r, parts)
		}
	}
}
