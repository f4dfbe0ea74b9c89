package main

import (
	"bytes"
	"fmt"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/etcd-leasing/leasing/integration/internal/reply"
)

func header(r any) *pb.ResponseHeader {
	return reply.Message(r).(interface{ GetHeader() *pb.ResponseHeader }).GetHeader()
}

// telling says in a few words what a reply to an operation tells. Replies that
// tell the same are the same but for their revisions. Keys are told without
// what they begin with.
type telling struct {
	base      string
	revisions bool // tell those of keys, too
}

// told is what a reply, or an error, tells.
func (t telling) told(r any, err error) string {
	if err != nil {
		return "error " + complaint(err)
	}
	return t.message(reply.Message(r))
}

func (t telling) message(m proto.Message) string {
	switch m := m.(type) {
	case *pb.PutResponse:
		if m.PrevKv == nil {
			return "put"
		}
		return "put after " + t.pair(m.PrevKv)
	case *pb.RangeResponse:
		more := ""
		if m.More {
			more = " and more"
		}
		return fmt.Sprintf("%d found%s%s", m.Count, t.pairs(m.Kvs), more)
	case *pb.DeleteRangeResponse:
		return fmt.Sprintf("%d deleted%s", m.Deleted, t.pairs(m.PrevKvs))
	case *pb.TxnResponse:
		var all []string
		for _, r := range m.Responses {
			all = append(all, t.response(r))
		}
		return fmt.Sprintf("%v {%s}", m.Succeeded, strings.Join(all, "; "))
	}
	panic(fmt.Sprintf("%T is no reply", m))
}

func (t telling) response(r *pb.ResponseOp) string {
	switch r := r.GetResponse().(type) {
	case *pb.ResponseOp_ResponsePut:
		return t.message(r.ResponsePut)
	case *pb.ResponseOp_ResponseRange:
		return t.message(r.ResponseRange)
	case *pb.ResponseOp_ResponseDeleteRange:
		return t.message(r.ResponseDeleteRange)
	case *pb.ResponseOp_ResponseTxn:
		return t.message(r.ResponseTxn)
	}
	return "nothing"
}

func (t telling) pairs(kvs []*mvccpb.KeyValue) string {
	if len(kvs) == 0 {
		return ""
	}
	var all []string
	for _, kv := range kvs {
		all = append(all, t.pair(kv))
	}
	return ": " + strings.Join(all, ", ")
}

// pair tells a key, its value, its version, and whether it has a lease.
func (t telling) pair(kv *mvccpb.KeyValue) string {
	s := fmt.Sprintf("%s=%s v%d", clean(strings.TrimPrefix(string(kv.Key), t.base)), clean(string(kv.Value)), kv.Version)
	if kv.Lease != 0 {
		s += " leased"
	}
	if t.revisions {
		s += fmt.Sprintf(" created %d modified %d", kv.CreateRevision, kv.ModRevision)
	}
	return s
}

// clean quotes what is no plain text.
func clean(s string) string {
	if q := fmt.Sprintf("%q", s); q != `"`+s+`"` || s == "" {
		return q
	}
	return s
}

// complaint is what an error says, without what clients put around it.
func complaint(err error) string {
	if s, ok := status.FromError(err); ok {
		return s.Message()
	}
	return err.Error()
}

// sameBut reports whether two replies are the same in every field but the
// header, which says who has answered, and when.
func sameBut(a, b any) bool {
	x, y := proto.Clone(reply.Message(a)), proto.Clone(reply.Message(b))
	for _, m := range []proto.Message{x, y} {
		m := m.ProtoReflect()
		m.Clear(m.Descriptor().Fields().ByName("header"))
	}
	return proto.Equal(x, y)
}

// scribble overwrites every byte and number of a reply.
func scribble(r any) { scribbleIn(reply.Message(r).ProtoReflect()) }

func scribbleIn(m protoreflect.Message) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsList():
			for i := range v.List().Len() {
				scribbleIn(v.List().Get(i).Message())
			}
		case f.Kind() == protoreflect.MessageKind:
			scribbleIn(v.Message())
		case f.Kind() == protoreflect.BytesKind:
			copy(v.Bytes(), bytes.Repeat([]byte("#"), len(v.Bytes())))
		case f.Kind() == protoreflect.Int64Kind:
			m.Set(f, protoreflect.ValueOfInt64(-v.Int()))
		}
		return true
	})
}
