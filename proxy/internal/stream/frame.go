package stream

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // the codec of all but frames
	"google.golang.org/grpc/mem"
)

// Frame is a message that is passed on as it came, once: it is neither decoded nor
// encoded.
type Frame struct{ Data mem.BufferSlice }

// Framing is a codec that takes frames, and leaves everything else to gRPC's own. It has
// no name, so that requests do not bear one.
type Framing struct{ proto encoding.CodecV2 }

// NewFraming returns the codec.
func NewFraming() Framing { return Framing{encoding.GetCodecV2("proto")} }

// Name returns the empty name.
func (c Framing) Name() string { return "" }

// Marshal hands over the reference that Unmarshal took, if v is a frame.
func (c Framing) Marshal(v any) (mem.BufferSlice, error) {
	if f, ok := v.(*Frame); ok {
		return f.Data, nil
	}
	return c.proto.Marshal(v)
}

// Unmarshal takes a reference to data, if v is a frame.
func (c Framing) Unmarshal(data mem.BufferSlice, v any) error {
	if f, ok := v.(*Frame); ok {
		data.Ref()
		f.Data = data
		return nil
	}
	return c.proto.Unmarshal(data, v)
}

// RelayFrames is Relay for what is to be passed on as it is.
func RelayFrames(down grpc.ServerStream, open func(context.Context, ...grpc.CallOption) (grpc.ClientStream, error)) error {
	return Relay(&grpc.GenericServerStream[Frame, Frame]{ServerStream: down},
		func(ctx context.Context) (grpc.BidiStreamingClient[Frame, Frame], error) {
			up, err := open(ctx, grpc.ForceCodecV2(NewFraming()))
			return &grpc.GenericClientStream[Frame, Frame]{ClientStream: up}, err
		}, func(*Frame) {}, func(*Frame) {})
}
