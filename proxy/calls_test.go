package proxy

import (
	"context"
	"io"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// someStream is a stream on which one message comes and any number may go.
type someStream struct {
	grpc.ServerStream
	come bool
}

func (s *someStream) RecvMsg(any) error {
	if s.come {
		return io.EOF
	}
	s.come = true
	return nil
}

func (s *someStream) SendMsg(m any) error {
	if m == nil {
		return io.ErrClosedPipe
	}
	return nil
}

// Calls and their messages are counted once each, by their method and by how they
// ended, under the names that dashboards for gRPC know.
func TestCalls(t *testing.T) {
	c := newCalls()
	unary := &grpc.UnaryServerInfo{FullMethod: "/s/U"}
	for _, err := range []error{nil, nil, status.Error(codes.NotFound, "")} {
		if _, got := c.unary(t.Context(), nil, unary, func(context.Context, any) (any, error) { return nil, err }); got != err {
			t.Errorf("%v, want %v", got, err)
		}
	}
	ends := status.Error(codes.Canceled, "")
	for _, info := range []*grpc.StreamServerInfo{
		{FullMethod: "/s/B", IsClientStream: true, IsServerStream: true},
		{FullMethod: "/s/C", IsClientStream: true},
		{FullMethod: "/s/S", IsServerStream: true},
	} {
		err := c.stream(nil, new(someStream), info, func(_ any, s grpc.ServerStream) error {
			for s.RecvMsg(nil) == nil {
				s.SendMsg(1)
				s.SendMsg(2)
			}
			s.SendMsg(nil)
			return ends
		})
		if err != ends {
			t.Errorf("%s: %v, want %v", info.FullMethod, err, ends)
		}
	}
	want := `
		# HELP grpc_server_handled_total Calls that are over, by how they ended.
		# TYPE grpc_server_handled_total counter
		grpc_server_handled_total{grpc_code="Canceled",grpc_method="B",grpc_service="s",grpc_type="bidi_stream"} 1
		grpc_server_handled_total{grpc_code="Canceled",grpc_method="C",grpc_service="s",grpc_type="client_stream"} 1
		grpc_server_handled_total{grpc_code="Canceled",grpc_method="S",grpc_service="s",grpc_type="server_stream"} 1
		grpc_server_handled_total{grpc_code="NotFound",grpc_method="U",grpc_service="s",grpc_type="unary"} 1
		grpc_server_handled_total{grpc_code="OK",grpc_method="B",grpc_service="s",grpc_type="bidi_stream"} 0
		grpc_server_handled_total{grpc_code="OK",grpc_method="C",grpc_service="s",grpc_type="client_stream"} 0
		grpc_server_handled_total{grpc_code="OK",grpc_method="S",grpc_service="s",grpc_type="server_stream"} 0
		grpc_server_handled_total{grpc_code="OK",grpc_method="U",grpc_service="s",grpc_type="unary"} 2
		# HELP grpc_server_msg_received_total Messages that came from callers.
		# TYPE grpc_server_msg_received_total counter
		grpc_server_msg_received_total{grpc_method="B",grpc_service="s",grpc_type="bidi_stream"} 1
		grpc_server_msg_received_total{grpc_method="C",grpc_service="s",grpc_type="client_stream"} 1
		grpc_server_msg_received_total{grpc_method="S",grpc_service="s",grpc_type="server_stream"} 1
		grpc_server_msg_received_total{grpc_method="U",grpc_service="s",grpc_type="unary"} 3
		# HELP grpc_server_msg_sent_total Messages that went to callers.
		# TYPE grpc_server_msg_sent_total counter
		grpc_server_msg_sent_total{grpc_method="B",grpc_service="s",grpc_type="bidi_stream"} 2
		grpc_server_msg_sent_total{grpc_method="C",grpc_service="s",grpc_type="client_stream"} 2
		grpc_server_msg_sent_total{grpc_method="S",grpc_service="s",grpc_type="server_stream"} 2
		grpc_server_msg_sent_total{grpc_method="U",grpc_service="s",grpc_type="unary"} 2
		# HELP grpc_server_started_total Calls that have begun.
		# TYPE grpc_server_started_total counter
		grpc_server_started_total{grpc_method="B",grpc_service="s",grpc_type="bidi_stream"} 1
		grpc_server_started_total{grpc_method="C",grpc_service="s",grpc_type="client_stream"} 1
		grpc_server_started_total{grpc_method="S",grpc_service="s",grpc_type="server_stream"} 1
		grpc_server_started_total{grpc_method="U",grpc_service="s",grpc_type="unary"} 3
	`
	if err := testutil.CollectAndCompare(c, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
}
