package memetcd

import (
	"context"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/proto"
)

func (s *Server) prepareLease(p *proposal, c *Conn, req proto.Message) error {
	switch r := req.(type) {
	case *pb.LeaseGrantRequest:
		p.route = raft
		p.do = func() (proto.Message, error) { return orNil(s.grantLocked(r)) }
	case *pb.LeaseRevokeRequest:
		p.route = raft
		p.do = func() (proto.Message, error) { return orNil(s.leaseRevokeLocked(c, r)) }
	case *pb.LeaseKeepAliveRequest:
		p.route = primary
		p.do = func() (proto.Message, error) { return orNil(s.keepAliveLocked(c, r)) }
	case *pb.LeaseTimeToLiveRequest:
		p.route = primary
		p.do = func() (proto.Message, error) { return orNil(s.timeToLiveLocked(c, r)) }
	case *pb.LeaseLeasesRequest:
		p.do = func() (proto.Message, error) { return orNil(s.listLeasesLocked(c)) }
	default:
		return unexpected(p.method, req)
	}
	return nil
}

func (s *Server) grantLocked(r *pb.LeaseGrantRequest) (*pb.LeaseGrantResponse, error) {
	if s.noSpace {
		return nil, rpctypes.ErrGRPCNoSpace
	}
	le, err := s.leases.grant(r.ID, r.TTL, time.Now())
	if err != nil {
		return nil, err
	}
	return &pb.LeaseGrantResponse{Header: &pb.ResponseHeader{}, ID: le.id, TTL: le.ttl}, nil
}

func (s *Server) leaseRevokeLocked(c *Conn, r *pb.LeaseRevokeRequest) (*pb.LeaseRevokeResponse, error) {
	le := s.leases.get(r.ID)
	if le == nil {
		return nil, rpctypes.ErrGRPCLeaseNotFound
	}
	if err := c.rights().writeLease(le); err != nil {
		return nil, err
	}
	s.revokeLocked(le)
	return &pb.LeaseRevokeResponse{Header: &pb.ResponseHeader{}}, nil
}

// keepAliveLocked answers a lease that is gone with a TTL of 0, not with an error. The revision of the
// reply is from before the renewal, so that it never is later than the lease's end.
func (s *Server) keepAliveLocked(c *Conn, r *pb.LeaseKeepAliveRequest) (*pb.LeaseKeepAliveResponse, error) {
	resp := &pb.LeaseKeepAliveResponse{Header: &pb.ResponseHeader{Revision: s.store.rev}, ID: r.ID}
	if err := c.rights().writeLease(s.leases.get(r.ID)); err != nil {
		return nil, err
	}
	s.expireLocked() // its timer may be due at this very instant
	if le := s.leases.get(r.ID); le != nil {
		s.leases.renew(le, time.Now())
		resp.TTL = le.ttl
	}
	return resp, nil
}

func (s *Server) timeToLiveLocked(c *Conn, r *pb.LeaseTimeToLiveRequest) (*pb.LeaseTimeToLiveResponse, error) {
	resp := &pb.LeaseTimeToLiveResponse{Header: &pb.ResponseHeader{}, ID: r.ID, TTL: -1}
	le := s.leases.get(r.ID)
	if le == nil {
		return resp, nil
	}
	resp.TTL, resp.GrantedTTL = s.leases.remaining(le, time.Now()), le.ttl
	if !r.Keys {
		return resp, nil
	}
	if err := c.rights().readLease(le); err != nil {
		return nil, err
	}
	for _, key := range le.sortedKeys() { // etcd gives them in no particular order
		resp.Keys = append(resp.Keys, []byte(key))
	}
	return resp, nil
}

func (s *Server) listLeasesLocked(c *Conn) (*pb.LeaseLeasesResponse, error) {
	resp := &pb.LeaseLeasesResponse{Header: &pb.ResponseHeader{}}
	for _, le := range s.leases.byExpiry() {
		if err := c.rights().readLease(le); err != nil {
			return nil, err
		}
		resp.Leases = append(resp.Leases, &pb.LeaseStatus{ID: le.id})
	}
	return resp, nil
}

// scheduleLocked sets the timer for the lease that runs out next.
func (s *Server) scheduleLocked() {
	var next time.Time // zero: none
	if !s.closed && s.leader {
		next = s.leases.nextExpiry()
	}
	if next.Equal(s.leaseDue) {
		return
	}
	if s.leaseEnd != nil {
		s.leaseEnd.Stop()
	}
	s.leaseDue = next
	if next.IsZero() {
		return
	}
	s.leaseEnd = time.AfterFunc(time.Until(next), func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.closed || !s.leader {
			return
		}
		s.expireLocked()
		s.leaseDue = time.Time{}
		s.scheduleLocked()
	})
}

// expireLocked revokes what has run out, one revision for each lease.
func (s *Server) expireLocked() {
	now := time.Now()
	for _, le := range s.leases.byExpiry() {
		if le.expiry.After(now) {
			return
		}
		s.revokeLocked(le)
	}
}

// revokeLocked deletes a lease and its keys, in key order and in one revision.
func (s *Server) revokeLocked(le *lease) {
	w := s.store.begin()
	for _, key := range le.sortedKeys() {
		w.delete(key)
	}
	delete(s.leases.leases, le.id)
	s.commitLocked(context.Background(), w)
}
