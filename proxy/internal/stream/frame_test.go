package stream

import (
	"net"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
)

// What is passed on as a frame is what came, with what this version of etcd's API does
// not know. Everything else is gRPC's affair.
func TestFraming(t *testing.T) {
	const later = "\xfa\x3f\x05later" // field 1023, which no message has
	codec := NewFraming()
	encoded, err := codec.Marshal(&pb.WatchResponse{WatchId: 7})
	if err != nil {
		t.Fatal(err)
	}
	came := append(encoded.Materialize(), later...)
	var f Frame
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

// Requests that are relayed look like those of etcd's client: gateways on the way may
// know no other content type.
func TestRelayedStreamsBearNoSubtype(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	types := make(chan []string, 1)
	server := grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
		types <- metadata.ValueFromIncomingContext(s.Context(), "content-type")
		return nil
	}))
	go server.Serve(l)
	defer server.Stop()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	s, err := pb.NewWatchClient(conn).Watch(t.Context(), grpc.ForceCodecV2(NewFraming()))
	if err != nil {
		t.Fatal(err)
	}
	defer s.CloseSend()
	select {
	case got := <-types:
		if len(got) != 1 || got[0] != "application/grpc" {
			t.Errorf("the content type is %q", got)
		}
	case <-time.After(10 * time.Second):
		t.Error("no request comes")
	}
}
