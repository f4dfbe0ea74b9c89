package proxy

import (
	"context"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

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
