package leasing

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"sort"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// openEnd as the end of a range means that the range has none.
const openEnd = "\x00"

// keyRange is the keys from begin up to, not including, end.
type keyRange struct{ begin, end string }

func rangeOf(op clientv3.Op) keyRange {
	return keyRange{string(op.KeyBytes()), string(op.RangeBytes())}
}

func (r keyRange) contains(key string) bool {
	return key >= r.begin && (r.end == openEnd || key < r.end)
}

func (r keyRange) empty() bool { return r.end != openEnd && r.end <= r.begin }

func (r keyRange) overlaps(o keyRange) bool {
	return !r.empty() && !o.empty() &&
		(r.end == openEnd || o.begin < r.end) && (o.end == openEnd || r.begin < o.end)
}

// hull returns the smallest range that holds all of ranges, which must be
// disjoint, in order, and not empty.
func hull(ranges []keyRange) keyRange {
	return keyRange{ranges[0].begin, ranges[len(ranges)-1].end}
}

// cover returns at most n disjoint ranges, in order, that hold every point and
// every range. The fewer points there are to a range, the less it holds besides.
func cover(points []string, ranges []keyRange, n int) []keyRange {
	all := slices.Clone(ranges)
	for _, k := range points {
		all = append(all, keyRange{k, k + "\x00"})
	}
	all = union(all)
	var out []keyRange
	for size := (len(all) + n - 1) / n; len(all) > 0; all = all[min(size, len(all)):] {
		out = append(out, hull(all[:min(size, len(all))]))
	}
	return out
}

// union returns disjoint ranges, in order, that hold the same keys.
func union(ranges []keyRange) []keyRange {
	ranges = slices.DeleteFunc(slices.Clone(ranges), keyRange.empty)
	slices.SortFunc(ranges, func(a, b keyRange) int { return strings.Compare(a.begin, b.begin) })
	out := ranges[:0]
	for _, r := range ranges {
		if n := len(out); n > 0 && (out[n-1].end == openEnd || r.begin <= out[n-1].end) {
			if last := &out[n-1]; last.end != openEnd && (r.end == openEnd || r.end > last.end) {
				last.end = r.end
			}
			continue
		}
		out = append(out, r)
	}
	return out
}

// contained reports whether key is in one of ranges, which must be disjoint and in
// order. There may be thousands, and it is asked for every key, under the lock of the
// cache.
func contained(key string, ranges []keyRange) bool {
	after := sort.Search(len(ranges), func(i int) bool { return ranges[i].begin > key })
	return after > 0 && ranges[after-1].contains(key)
}

// holds decides a comparison of a single key as the server does; s is what is
// known of the key.
//
// Invariant: I11. The value of a key that does not exist compares false,
// whatever it is compared with; everything else of it compares as zero.
func holds(c *etcdserverpb.Compare, s *snapshot) bool {
	var d int
	switch c.Target {
	case etcdserverpb.Compare_VALUE:
		if !s.present() {
			return false
		}
		d = bytes.Compare(s.value, c.GetValue())
	case etcdserverpb.Compare_VERSION:
		d = compare(s.version, c.GetVersion())
	case etcdserverpb.Compare_CREATE:
		d = compare(s.create, c.GetCreateRevision())
	case etcdserverpb.Compare_MOD:
		d = compare(s.mod, c.GetModRevision())
	case etcdserverpb.Compare_LEASE:
		// A key that carries a lease is never cached.
		d = compare(0, c.GetLease())
	}
	switch c.Result {
	case etcdserverpb.Compare_EQUAL:
		return d == 0
	case etcdserverpb.Compare_NOT_EQUAL:
		return d != 0
	case etcdserverpb.Compare_GREATER:
		return d > 0
	case etcdserverpb.Compare_LESS:
		return d < 0
	}
	return true
}

func compare(a, b int64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// cloneCmp is Clone of package clientv3, only quicker.
func cloneCmp(c *clientv3.Cmp) (out clientv3.Cmp) {
	if *c == out {
		return out
	}
	from := c.GetCompare()
	if len(from.ProtoReflect().GetUnknown()) > 0 {
		return c.Clone()
	}
	to := out.GetCompare()
	to.Result, to.Target, to.Key, to.RangeEnd = from.Result, from.Target, bytes.Clone(from.Key), bytes.Clone(from.RangeEnd)
	switch u := from.TargetUnion.(type) {
	case *etcdserverpb.Compare_Version:
		to.TargetUnion = &etcdserverpb.Compare_Version{Version: u.Version}
	case *etcdserverpb.Compare_CreateRevision:
		to.TargetUnion = &etcdserverpb.Compare_CreateRevision{CreateRevision: u.CreateRevision}
	case *etcdserverpb.Compare_ModRevision:
		to.TargetUnion = &etcdserverpb.Compare_ModRevision{ModRevision: u.ModRevision}
	case *etcdserverpb.Compare_Value:
		to.TargetUnion = &etcdserverpb.Compare_Value{Value: bytes.Clone(u.Value)}
	case *etcdserverpb.Compare_Lease:
		to.TargetUnion = &etcdserverpb.Compare_Lease{Lease: u.Lease}
	}
	return out
}

// isPoint reports whether a get can be answered from what is known of one key.
func isPoint(op *clientv3.Op) bool {
	return op.IsGet() && len(op.KeyBytes()) > 0 && len(op.RangeBytes()) == 0 &&
		op.Rev() == 0 && op.IsSortOptionValid()
}

// shape is what the options of a get ask for in the reply.
type shape struct {
	keysOnly, countOnly                  bool
	minMod, maxMod, minCreate, maxCreate int64
}

func shapeOf(op *clientv3.Op) shape {
	return shape{
		keysOnly: op.IsKeysOnly(), countOnly: op.IsCountOnly(),
		minMod: op.MinModRev(), maxMod: op.MaxModRev(),
		minCreate: op.MinCreateRev(), maxCreate: op.MaxCreateRev(),
	}
}

// shows reports whether the reply holds the key-value itself. Filters apply to
// what is returned, not to the count.
func (o shape) shows(s *snapshot) bool {
	return s.present() && !o.countOnly &&
		(o.maxMod == 0 || s.mod <= o.maxMod) && (o.minMod == 0 || s.mod >= o.minMod) &&
		(o.maxCreate == 0 || s.create <= o.maxCreate) && (o.minCreate == 0 || s.create >= o.minCreate)
}

// rangeReply is a reply to a point read, less the bytes of key and value.
type rangeReply struct {
	resp etcdserverpb.RangeResponse
	hdr  etcdserverpb.ResponseHeader
	kv   mvccpb.KeyValue
	kvs  [1]*mvccpb.KeyValue
}

// A reply in one piece of memory has room for a key, and behind it for its value, as far
// as it goes: for so many bytes as make it a size that the allocator has.
type (
	smallReply struct {
		rangeReply
		text [32]byte
	}
	largerReply struct {
		rangeReply
		text [smallText]byte
	}
)

// smallText is how many bytes of a key and its value are in the reply itself.
const smallText = 64

// newRangeReply returns a reply with room for n bytes, or as much as there is.
func newRangeReply(n int) (r *rangeReply, text []byte) {
	if n <= len(smallReply{}.text) {
		r := new(smallReply)
		return &r.rangeReply, r.text[:]
	}
	l := new(largerReply)
	return &l.rangeReply, l.text[:]
}

// reply builds the answer to a point read of key.
//
// The usual one is built right here. By way of fill, hits of small values take a tenth
// longer (BenchmarkHit).
//
// Invariant: I12. It shares no memory with s: the caller may change all of it.
func (o shape) reply(key string, s *snapshot) *rangeReply {
	n, m := len(key), len(s.value)
	inside := n + m // how much of it is in the reply itself
	if inside > smallText {
		inside = n // the value is in memory of its own
	}
	r, text := newRangeReply(inside)
	if !o.shows(s) || o.keysOnly || n > smallText || m == 0 {
		fill(r, text, o, key, s)
		return r
	}
	copy(text, key)
	if inside > n {
		copy(text[n:], s.value)
		r.kv.Value = text[n : n+m : n+m]
	} else {
		r.kv.Value = bytes.Clone(s.value)
	}
	r.kv.Key, r.kvs[0] = text[:n:n], &r.kv
	r.kv.CreateRevision, r.kv.ModRevision, r.kv.Version = s.create, s.mod, s.version
	r.resp.Header, r.resp.Kvs, r.resp.Count = &r.hdr, r.kvs[:], 1
	return r
}

// fill makes r, which is zero, the answer to a point read of key. Its text is to be in
// text, if it fits.
//
// Invariant: I12. It shares no memory with s: the caller may change all of it.
func fill[K string | []byte](r *rangeReply, text []byte, o shape, key K, s *snapshot) {
	r.resp.Header = &r.hdr
	if s.present() {
		r.resp.Count = 1
	}
	if !o.shows(s) {
		return
	}
	text, value := text[:0], s.value
	if o.keysOnly {
		value = nil
	}
	if len(key) > cap(text) {
		text = make([]byte, 0, len(key)+len(value))
	}
	text = append(text, key...)
	n := len(text)
	r.kv.Key = text[:n:n]
	switch {
	case len(value) == 0:
	case len(value) <= cap(text)-n:
		r.kv.Value = append(text, value...)[n : n+len(value) : n+len(value)]
	default:
		r.kv.Value = bytes.Clone(value)
	}
	r.kv.CreateRevision, r.kv.ModRevision, r.kv.Version = s.create, s.mod, s.version
	r.kvs[0] = &r.kv
	r.resp.Kvs = r.kvs[:]
}

func setHeader(h, from *etcdserverpb.ResponseHeader, rev int64) {
	if from != nil {
		h.ClusterId, h.MemberId, h.RaftTerm = from.ClusterId, from.MemberId, from.RaftTerm
	}
	h.Revision = rev
}

func copyHeader(h *etcdserverpb.ResponseHeader) *etcdserverpb.ResponseHeader {
	c := new(etcdserverpb.ResponseHeader)
	setHeader(c, h, h.GetRevision())
	return c
}

// onlyKV returns the key-value in the reply to a point read; nil if the key
// does not exist.
func onlyKV(r *etcdserverpb.ResponseOp) *mvccpb.KeyValue {
	if kvs := r.GetResponseRange().GetKvs(); len(kvs) > 0 {
		return kvs[0]
	}
	return nil
}

// outcome is what is known of a request that may change the store.
type outcome uint8

const (
	unknown outcome = iota // it may have been applied, or may be yet
	refused                // it was not applied and never will be
	applied
)

// refusals are the errors that etcd gives before it applies anything. Every
// other error leaves the outcome unknown: "database space exceeded" and
// "received message larger than max", for example, were seen on a real server
// for writes that had been applied.
//
// Invariant: I3.
func refusals() []error {
	return []error{
		rpctypes.ErrEmptyKey, rpctypes.ErrKeyNotFound,
		rpctypes.ErrValueProvided, rpctypes.ErrLeaseProvided,
		rpctypes.ErrTooManyOps, rpctypes.ErrDuplicateKey, rpctypes.ErrInvalidSortOption,
		rpctypes.ErrCompacted, rpctypes.ErrFutureRev,
		rpctypes.ErrLeaseNotFound, rpctypes.ErrRequestTooLarge,
		rpctypes.ErrUserEmpty, rpctypes.ErrPermissionDenied, rpctypes.ErrInvalidAuthToken,
	}
}

// outcomeOf classifies the error of a write.
func outcomeOf(err error) outcome {
	if err == nil {
		return applied
	}
	// clientv3 gives server errors as EtcdError, which compare by value.
	err = rpctypes.Error(err)
	for _, r := range refusals() {
		if errors.Is(err, r) {
			return refused
		}
	}
	// The client's own limit, checked before anything is sent. A server says it
	// of its reply, after it has done the work, with "grpc: " in front.
	var s interface{ GRPCStatus() *status.Status }
	if errors.As(err, &s) && strings.HasPrefix(s.GRPCStatus().Message(), "trying to send message larger than max") {
		return refused
	}
	return unknown
}

// isAnswer reports whether err is what a server that can be reached has to say.
func isAnswer(err error) bool {
	var e rpctypes.EtcdError
	return errors.As(rpctypes.Error(err), &e) && e.Code() != codes.Unavailable
}

// isRefusedWatch reports whether etcd refuses a watch for lack of rights. The
// client gives the reason as text.
func isRefusedWatch(err error) bool {
	return strings.Contains(err.Error(), rpctypes.ErrorDesc(rpctypes.ErrGRPCPermissionDenied)) ||
		strings.Contains(err.Error(), rpctypes.ErrorDesc(rpctypes.ErrGRPCUserEmpty)) ||
		errors.Is(err, rpctypes.ErrInvalidAuthToken) || errors.Is(err, rpctypes.ErrAuthFailed)
}

// backoff grows the pauses of a loop, with jitter, from first to last.
type backoff struct {
	first, last time.Duration
	next        time.Duration
}

// pause returns how long to wait before the next try.
func (b *backoff) pause() time.Duration {
	b.next = min(max(b.next*2, b.first), b.last)
	return b.next/2 + rand.N(b.next/2+1)
}

func (b *backoff) reset() { b.next = 0 }
