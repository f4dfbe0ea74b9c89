package proxy

import (
	"slices"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

func nested(txns ...*pb.TxnRequest) (ops []*pb.RequestOp) {
	for _, t := range txns {
		ops = append(ops, &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: t}})
	}
	return ops
}

// Operations are counted as etcd does: each list for itself, and those of nested
// transactions on top. However they are nested, there is a bound on all of them.
func TestOperationsAreCounted(t *testing.T) {
	const limit = 10
	gets := func(n int) []*pb.RequestOp {
		return slices.Repeat([]*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte("k")}}}}, n)
	}
	cmps := func(n int) []*pb.Compare { return slices.Repeat([]*pb.Compare{{Key: []byte("k")}}, n) }
	of := func(n int) *pb.TxnRequest { return &pb.TxnRequest{Success: gets(n)} }
	deep := of(2)
	for range 4 {
		deep = &pb.TxnRequest{Success: nested(deep, deep)}
	}
	for name, tc := range map[string]struct {
		r  *pb.TxnRequest
		ok bool
	}{
		"nothing":                    {&pb.TxnRequest{}, true},
		"full lists":                 {&pb.TxnRequest{Compare: cmps(10), Success: gets(10), Failure: gets(10)}, true},
		"comparisons":                {&pb.TxnRequest{Compare: cmps(11)}, false},
		"operations":                 {of(11), false},
		"operations of the other":    {&pb.TxnRequest{Failure: gets(11)}, false},
		"nested ones":                {&pb.TxnRequest{Success: nested(of(9))}, true},
		"too many nested ones":       {&pb.TxnRequest{Success: nested(of(10))}, false},
		"nested beside a long list":  {&pb.TxnRequest{Success: nested(of(1)), Failure: gets(10)}, false},
		"as many as one level holds": {&pb.TxnRequest{Success: nested(slices.Repeat([]*pb.TxnRequest{of(5)}, 5)...)}, true},
		"few on each of many levels": {deep, true},
		"full lists on two levels": {&pb.TxnRequest{Success: nested(slices.Repeat([]*pb.TxnRequest{{Compare: cmps(5), Success: gets(5), Failure: gets(5)}}, 5)...),
			Failure: nested(slices.Repeat([]*pb.TxnRequest{of(5)}, 5)...)}, false},
	} {
		if err := checkTxn(tc.r, limit); (err == nil) != tc.ok || err != nil && err != rpctypes.ErrGRPCTooManyOps {
			t.Errorf("%s: %v", name, err)
		}
	}
}
