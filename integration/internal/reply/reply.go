// Package reply looks at the replies of clientv3, whatever they are to.
package reply

import (
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"
)

// Message returns a reply as what it is on the wire.
func Message(r any) proto.Message {
	switch r := r.(type) {
	case *clientv3.PutResponse:
		return (*pb.PutResponse)(r)
	case *clientv3.GetResponse:
		return (*pb.RangeResponse)(r)
	case *clientv3.DeleteResponse:
		return (*pb.DeleteRangeResponse)(r)
	case *clientv3.TxnResponse:
		return (*pb.TxnResponse)(r)
	case clientv3.OpResponse:
		switch {
		case r.Put() != nil:
			return Message(r.Put())
		case r.Get() != nil:
			return Message(r.Get())
		case r.Del() != nil:
			return Message(r.Del())
		case r.Txn() != nil:
			return Message(r.Txn())
		}
	}
	panic(fmt.Sprintf("reply: %T is none", r))
}
