package proxy

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// panicking panics with an error that may hold data, and as the runtime does.
type panicking struct{ *kvServer }

func (panicking) Put(context.Context, *pb.PutRequest) (*pb.PutResponse, error) {
	panic(errors.New("a secret"))
}

func (panicking) RangeStream(r *pb.RangeRequest, _ pb.KV_RangeStreamServer) error {
	r.Key = r.Key[len("longer than the key"):]
	return nil
}

// A panic is the error of one caller, and the end of nobody. The log tells where it was,
// and nothing that may be data.
func TestPanics(t *testing.T) {
	core, logged := observer.New(zapcore.ErrorLevel)
	s := &Server{cfg: Config{Logger: zap.New(core)}, calls: newCalls(), ctx: t.Context()}
	opts, err := s.options()
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(opts...)
	defer server.Stop()
	pb.RegisterKVServer(server, panicking{})
	go server.Serve(l)
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	kv := pb.NewKVClient(conn)
	if _, err := kv.Put(t.Context(), &pb.PutRequest{Key: []byte("k")}); status.Code(err) != codes.Internal || strings.Contains(err.Error(), "secret") {
		t.Errorf("a call: %v", err)
	}
	stream, err := kv.RangeStream(t.Context(), &pb.RangeRequest{Key: []byte("k")})
	if err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.Internal {
		t.Errorf("a stream: %v", err)
	}
	entries, what := logged.All(), []string{"*errors.errorString", "slice bounds out of range"}
	if len(entries) != len(what) {
		t.Fatalf("logged: %v", entries)
	}
	for i, e := range entries {
		fields := e.ContextMap()
		said, stack := fields["panic"].(string), fields["stack"].(string)
		if !strings.Contains(said, what[i]) || !strings.Contains(stack, "panicking.") || strings.Contains(said+stack, "secret") {
			t.Errorf("logged: %s, %s", said, stack)
		}
	}
}
