package proxy

import (
	"context"
	"errors"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// answers is a KV that gives the same answer each time, and may send something to etcd
// for it.
type answers struct {
	clientv3.KV
	sends bool
	err   error
	calls int
}

func (a *answers) Do(ctx context.Context, op clientv3.Op) (clientv3.OpResponse, error) {
	a.calls++
	if a.sends {
		note(ctx)
	}
	return clientv3.OpResponse{}, a.err
}

// script is a leave that is good or not as it is told, and notes what it is told.
type script struct {
	goods []bool
	told  []error
	since []time.Time
}

func (s *script) good(time.Time) bool {
	g := s.goods[0]
	s.goods = s.goods[1:]
	return g
}

func (s *script) judged(begin time.Time, err error) {
	s.told, s.since = append(s.told, err), append(s.since, begin)
}

// What is answered from memory is given to whom may have it before and after; nothing
// is sent twice; and etcd's word counts if a quorum has given it.
func TestDo(t *testing.T) {
	fault := errors.New("some fault")
	get, put := clientv3.OpGet("k"), clientv3.OpPut("k", "v")
	serializable := clientv3.OpGet("k", clientv3.WithSerializable())
	for name, tc := range map[string]struct {
		op               clientv3.Op
		goods            []bool
		sends            bool  // the KV that answers from memory sends it
		err              error // of that KV
		etcd             error // of the other
		cached, uncached int   // how often each is asked
		told             []error
	}{
		"from memory":              {op: get, goods: []bool{true, true}, cached: 1},
		"no leave":                 {op: get, goods: []bool{false}, uncached: 1, told: []error{nil}},
		"refused":                  {op: get, goods: []bool{false}, etcd: rpctypes.ErrPermissionDenied, uncached: 1, told: []error{rpctypes.ErrPermissionDenied}},
		"the leave lapses":         {op: get, goods: []bool{true, false}, cached: 1, uncached: 1, told: []error{nil}},
		"it lapses, refused":       {op: get, goods: []bool{true, false}, etcd: rpctypes.ErrUserEmpty, cached: 1, uncached: 1, told: []error{rpctypes.ErrUserEmpty}},
		"sent":                     {op: get, goods: []bool{true}, sends: true, cached: 1, told: []error{nil}},
		"sent, refused":            {op: get, goods: []bool{true}, sends: true, err: rpctypes.ErrPermissionDenied, cached: 1, told: []error{rpctypes.ErrPermissionDenied}},
		"a write that was sent":    {op: put, goods: []bool{true}, sends: true, cached: 1},
		"a write of no outcome":    {op: put, goods: []bool{true}, sends: true, err: fault, cached: 1, told: []error{fault}},
		"a write that was not":     {op: put, goods: []bool{true}, err: fault, cached: 1},
		"a txn, and it lapses":     {op: clientv3.OpTxn(nil, nil, nil), goods: []bool{true, false}, cached: 1, uncached: 1},
		"serializable, no leave":   {op: serializable, goods: []bool{false}, uncached: 1},
		"serializable, refused":    {op: serializable, goods: []bool{false}, etcd: rpctypes.ErrPermissionDenied, uncached: 1, told: []error{rpctypes.ErrPermissionDenied}},
		"serializable from memory": {op: serializable, goods: []bool{true, true}, cached: 1},
	} {
		cached, uncached := &answers{sends: tc.sends, err: tc.err}, &answers{sends: true, err: tc.etcd}
		leave := &script{goods: tc.goods}
		begin := time.Now()
		_, err := (&kvServer{cached: cached, uncached: uncached}).do(t.Context(), tc.op, leave)
		want := tc.err
		if tc.uncached > 0 {
			want = tc.etcd
		}
		if err != want || cached.calls != tc.cached || uncached.calls != tc.uncached || len(leave.goods) != 0 {
			t.Errorf("%s: %v, memory was asked %d times, etcd %d times, the leave %d times too few", name, err, cached.calls, uncached.calls, len(leave.goods))
		}
		if len(leave.told) != len(tc.told) || len(tc.told) > 0 && leave.told[0] != tc.told[0] {
			t.Errorf("%s: the leave was told %v, not %v", name, leave.told, tc.told)
		}
		for _, since := range leave.since {
			if since.Before(begin) {
				t.Errorf("%s: judged since before the call", name)
			}
		}
	}
}

// sentRange keeps the read that is sent.
type sentRange struct {
	pb.KVClient
	request *pb.RangeRequest
}

func (s *sentRange) Range(_ context.Context, r *pb.RangeRequest, _ ...grpc.CallOption) (*pb.RangeResponse, error) {
	s.request = r
	return &pb.RangeResponse{}, nil
}

// A read that is passed on asks for the same as the caller has, whatever that is.
func TestReadsArePassedOnWhole(t *testing.T) {
	check := func(name string, r *pb.RangeRequest) {
		var s sentRange
		if _, err := clientv3.NewKVFromKVClient(&s, nil).Do(t.Context(), rangeOp(r)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if !proto.Equal(s.request, r) {
			t.Errorf("%s: sent is %v, want %v", name, s.request, r)
		}
	}
	check("a key", &pb.RangeRequest{Key: []byte("k")})
	check("a long key", &pb.RangeRequest{Key: make([]byte, 200)})
	fields := new(pb.RangeRequest).ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		f, r := fields.Get(i), &pb.RangeRequest{Key: []byte("k")}
		switch f.Kind() {
		case protoreflect.BytesKind:
			r.ProtoReflect().Set(f, protoreflect.ValueOfBytes([]byte("l")))
		case protoreflect.BoolKind:
			r.ProtoReflect().Set(f, protoreflect.ValueOfBool(true))
		case protoreflect.EnumKind:
			r.ProtoReflect().Set(f, protoreflect.ValueOfEnum(2))
		default:
			r.ProtoReflect().Set(f, protoreflect.ValueOfInt64(3))
		}
		check(string(f.Name()), r)
	}
}
