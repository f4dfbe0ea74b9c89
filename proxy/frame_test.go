package proxy

import (
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/mem"
)

// What is passed on as a frame is what came, with what this version of etcd's API does
// not know. Everything else is gRPC's affair.
func TestFraming(t *testing.T) {
	const later = "\xfa\x3f\x05later" // field 1023, which no message has
	codec := newFraming()
	encoded, err := codec.Marshal(&pb.WatchResponse{WatchId: 7})
	if err != nil {
		t.Fatal(err)
	}
	came := append(encoded.Materialize(), later...)
	var f frame
	if err := codec.Unmarshal(mem.BufferSlice{mem.SliceBuffer(came)}, &f); err != nil {
		t.Fatal(err)
	}
	sent, err := codec.Marshal(&f)
	if err != nil || string(sent.Materialize()) != string(came) {
		t.Errorf("%q is passed on as %q, %v", came, sent.Materialize(), err)
	}
	var r pb.WatchResponse
	if err := codec.Unmarshal(sent, &r); err != nil || r.WatchId != 7 || string(r.ProtoReflect().GetUnknown()) != later {
		t.Errorf("decoded: %v, %v", &r, err)
	}
}
