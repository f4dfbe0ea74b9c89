package memetcd

import (
	"context"
	"maps"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
)

// Method is the name of an RPC, as in its gRPC service.
type Method string

// The methods of the KV, Lease and Watch services.
const (
	MethodRange           Method = "Range"
	MethodRangeStream     Method = "RangeStream"
	MethodPut             Method = "Put"
	MethodDeleteRange     Method = "DeleteRange"
	MethodTxn             Method = "Txn"
	MethodCompact         Method = "Compact"
	MethodLeaseGrant      Method = "LeaseGrant"
	MethodLeaseRevoke     Method = "LeaseRevoke"
	MethodLeaseKeepAlive  Method = "LeaseKeepAlive"
	MethodLeaseTimeToLive Method = "LeaseTimeToLive"
	MethodLeaseLeases     Method = "LeaseLeases"
	MethodWatch           Method = "Watch"
)

// Stats counts requests by method. On streams, each message is a request.
type Stats struct {
	Received map[Method]int // that reached the server
	Applied  map[Method]int // that it did, and answered without an error; no watches
}

func newStats() Stats {
	return Stats{Received: make(map[Method]int), Applied: make(map[Method]int)}
}

// Total is the number of requests that reached the server.
func (s Stats) Total() int {
	n := 0
	for _, v := range s.Received {
		n += v
	}
	return n
}

// Stats returns the counts so far, of all clients together.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Stats{Received: maps.Clone(s.stats.Received), Applied: maps.Clone(s.stats.Applied)}
}

// OnApply adds a function that is told of every revision, in order, before the client that caused it
// gets its reply. The context has the values of that client's call; it is the background's if a lease
// has run out. The events are those of the revision in the order of its operations, without previous
// values, and belong to f. It must not block, nor call the server.
func (s *Server) OnApply(f func(ctx context.Context, rev int64, events []*mvccpb.Event)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hooks = append(s.hooks, f)
}

// TxnRecord is one transaction that was applied. It is not to be changed.
type TxnRecord struct {
	Client   string
	Time     time.Time
	Request  *pb.TxnRequest
	Response *pb.TxnResponse
}

// RecordTxns starts a new record of applied transactions.
func (s *Server) RecordTxns() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.record, s.txns = true, nil
}

// Txns returns the transactions since RecordTxns, in the order in which they were applied.
func (s *Server) Txns() []*TxnRecord {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.txns)
}

func (s *Server) recordTxnLocked(client string, r *pb.TxnRequest, resp *pb.TxnResponse) {
	if !s.record {
		return
	}
	s.txns = append(s.txns, &TxnRecord{
		Client:   client,
		Time:     time.Now(),
		Request:  proto.Clone(r).(*pb.TxnRequest),
		Response: proto.Clone(resp).(*pb.TxnResponse),
	})
}
