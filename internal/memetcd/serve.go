package memetcd

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/proto"
)

// serve answers one request of a client. The request and the reply may share memory with the store;
// the connection copies both.
func (s *Server) serve(ctx context.Context, c *Conn, m Method, req proto.Message) (proto.Message, error) {
	s.received(m)
	if requiresLeader(ctx) && !s.hasLeader() {
		return nil, rpctypes.ErrGRPCNoLeader
	}
	p := &proposal{ctx: ctx, method: m}
	if err := s.prepare(p, c, req); err != nil {
		return nil, err
	}
	return s.submit(p)
}

// prepare checks a request and says how it is done.
func (s *Server) prepare(p *proposal, c *Conn, req proto.Message) error {
	switch r := req.(type) {
	case *pb.RangeRequest:
		return s.prepareRange(p, c, r)
	case *pb.PutRequest:
		return s.preparePut(p, c, r)
	case *pb.DeleteRangeRequest:
		return s.prepareDelete(p, c, r)
	case *pb.TxnRequest:
		return s.prepareTxn(p, c, r)
	case *pb.CompactionRequest:
		p.route = raft
		p.do = func() (proto.Message, error) {
			if err := c.rights().admin(); err != nil {
				return nil, err
			}
			return &pb.CompactionResponse{Header: &pb.ResponseHeader{}}, s.store.compact(r.Revision)
		}
	default:
		return s.prepareLease(p, c, req)
	}
	return nil
}

func (s *Server) prepareRange(p *proposal, c *Conn, r *pb.RangeRequest) error {
	check := checkRange
	if p.method == MethodRangeStream {
		check = checkRangeStream
	}
	if err := check(r); err != nil {
		return err
	}
	p.route = linearizable
	if r.Serializable {
		p.route = local
	}
	p.do = func() (proto.Message, error) {
		if err := c.rights().read(r.Key, r.RangeEnd); err != nil {
			return nil, err
		}
		return orNil(rangeKeys(s.store.view(), r))
	}
	return nil
}

func (s *Server) preparePut(p *proposal, c *Conn, r *pb.PutRequest) error {
	if err := checkPut(r); err != nil {
		return err
	}
	if err := checkSize(&pb.InternalRaftRequest{Put: r}, s.opts.MaxRequestBytes); err != nil {
		return err
	}
	p.route = raft
	p.do = func() (proto.Message, error) {
		if s.noSpace {
			return nil, rpctypes.ErrGRPCNoSpace
		}
		if err := c.rights().put(s.leases, r); err != nil {
			return nil, err
		}
		if err := checkPutState(s.store.view(), s.leases, r); err != nil {
			return nil, err
		}
		w := s.store.begin()
		resp := put(w, s.leases, r)
		s.commitLocked(p.ctx, w)
		return resp, nil
	}
	return nil
}

func (s *Server) prepareDelete(p *proposal, c *Conn, r *pb.DeleteRangeRequest) error {
	if err := checkDelete(r); err != nil {
		return err
	}
	if err := checkSize(&pb.InternalRaftRequest{DeleteRange: r}, s.opts.MaxRequestBytes); err != nil {
		return err
	}
	p.route = raft
	p.do = func() (proto.Message, error) {
		if err := c.rights().deleteRange(r); err != nil {
			return nil, err
		}
		w := s.store.begin()
		resp := deleteRange(w, s.leases, r)
		s.commitLocked(p.ctx, w)
		return resp, nil
	}
	return nil
}

func (s *Server) prepareTxn(p *proposal, c *Conn, r *pb.TxnRequest) error {
	if err := checkTxn(r, s.opts.MaxTxnOps); err != nil {
		return err
	}
	switch {
	case readOnly(r) && serializable(r):
		p.route = local
	case readOnly(r):
		p.route = linearizable
	default:
		p.route = raft
		if err := checkSize(&pb.InternalRaftRequest{Txn: r}, s.opts.MaxRequestBytes); err != nil {
			return err
		}
	}
	p.do = func() (proto.Message, error) {
		if s.noSpace && mayPut(r) {
			return nil, rpctypes.ErrGRPCNoSpace
		}
		if err := c.rights().txn(s.leases, r); err != nil {
			return nil, err
		}
		w := s.store.begin()
		resp, err := doTxn(w, s.leases, r)
		if err != nil {
			return nil, err
		}
		s.commitLocked(p.ctx, w)
		s.fillLocked(resp.Header)
		s.recordTxnLocked(c.name, r, resp)
		return resp, nil
	}
	return nil
}

// orNil turns a typed result into a message, and a nil pointer into a nil interface.
func orNil[M proto.Message](msg M, err error) (proto.Message, error) {
	if err != nil {
		return nil, err
	}
	return msg, nil
}
