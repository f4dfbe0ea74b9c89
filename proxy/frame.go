package proxy

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // the codec of all but frames
	"google.golang.org/grpc/mem"
)

// frame is a message that is passed on as it came, once: it is neither decoded nor
// encoded.
type frame struct{ data mem.BufferSlice }

// framing is a codec that takes frames, and leaves everything else to gRPC's own.
type framing struct{ encoding.CodecV2 }

func newFraming() framing { return framing{encoding.GetCodecV2("proto")} }

// Marshal hands over the reference that Unmarshal took.
func (c framing) Marshal(v any) (mem.BufferSlice, error) {
	if f, ok := v.(*frame); ok {
		return f.data, nil
	}
	return c.CodecV2.Marshal(v)
}

func (c framing) Unmarshal(data mem.BufferSlice, v any) error {
	if f, ok := v.(*frame); ok {
		data.Ref()
		f.data = data
		return nil
	}
	return c.CodecV2.Unmarshal(data, v)
}

// relayFrames is relay for what is to be passed on as it is.
func relayFrames(down grpc.ServerStream, open func(context.Context, ...grpc.CallOption) (grpc.ClientStream, error)) error {
	return relay(&grpc.GenericServerStream[frame, frame]{ServerStream: down},
		func(ctx context.Context) (grpc.BidiStreamingClient[frame, frame], error) {
			up, err := open(ctx, grpc.ForceCodecV2(newFraming()))
			return &grpc.GenericClientStream[frame, frame]{ClientStream: up}, err
		}, func(*frame) {}, func(*frame) {})
}
