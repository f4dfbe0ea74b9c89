package memetcd

import (
	"context"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// LoseLeader leaves the member without a leader. Until ElectLeader it applies nothing: requests wait,
// and those whose clients give up meanwhile are still done afterwards, unless they only read. What
// needs no leader (serializable reads, transactions without ranges) is answered. No lease runs out.
// Streams that require a leader end after three election timeouts, new ones fail at once.
func (s *Server) LoseLeader() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.loseLeaderLocked()
	s.afterLocked(3*s.opts.ElectionTimeout, s.endLeaderlessLocked)
}

// ElectLeader ends a time without a leader: the term goes up, every lease gets its full TTL again, and
// what waited is applied in the order in which it came. With a leader in office it is a re-election.
func (s *Server) ElectLeader() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.electLeaderLocked()
}

// Stall is LoseLeader now and ElectLeader after d. It does not wait.
func (s *Server) Stall(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.loseLeaderLocked()
	lost := 3 * s.opts.ElectionTimeout
	if d <= lost {
		s.afterLocked(d, s.electLeaderLocked)
		return
	}
	s.afterLocked(lost, func() {
		s.endLeaderlessLocked()
		s.afterLocked(d-lost, s.electLeaderLocked)
	})
}

// afterLocked sets what happens next while there is no leader, in place of what was set before.
func (s *Server) afterLocked(d time.Duration, f func()) {
	if s.election != nil {
		s.election.Stop()
	}
	var t *time.Timer
	t = time.AfterFunc(d, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if !s.closed && s.election == t {
			f()
		}
	})
	s.election = t
}

func (s *Server) loseLeaderLocked() {
	s.leader = false
	s.scheduleLocked()
}

func (s *Server) endLeaderlessLocked() {
	for _, c := range s.conns {
		c.endLeaderless()
	}
}

func (s *Server) electLeaderLocked() {
	if s.election != nil {
		s.election.Stop()
		s.election = nil
	}
	s.leader = true
	s.term++
	now := time.Now()
	for _, le := range s.leases.leases {
		s.leases.renew(le, now)
	}
	waiting := s.waiting
	s.waiting = nil
	for _, p := range waiting {
		if p.keep || p.ctx.Err() == nil {
			p.result <- s.stepLocked(p)
		}
	}
	s.scheduleLocked()
}

// route is what a request has to do with the leader.
type route struct {
	leader  bool  // it takes one
	keep    bool  // once the leader has it, it is done whether or not the client still waits
	timeout error // for want of a leader
}

var (
	local        = route{}
	linearizable = route{leader: true, timeout: rpctypes.ErrGRPCTimeout}
	raft         = route{leader: true, keep: true, timeout: rpctypes.ErrGRPCTimeoutDueToLeaderFail}
	primary      = route{leader: true, timeout: rpctypes.ErrGRPCNoLeader}
)

// proposal is one request on its way to be applied.
type proposal struct {
	route
	ctx    context.Context
	method Method
	do     func() (proto.Message, error) // under the server's lock
	result chan outcome                  // has room for the result
}

type outcome struct {
	msg proto.Message
	err error
}

// submit applies a request, once there is a leader if it needs one.
func (s *Server) submit(p *proposal) (proto.Message, error) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil, errServerClosed
	}
	if s.leader || !p.leader {
		o := s.stepLocked(p)
		s.mu.Unlock()
		return o.msg, o.err
	}
	p.result = make(chan outcome, 1)
	s.waiting = append(s.waiting, p)
	s.mu.Unlock()

	t := time.NewTimer(s.opts.RequestTimeout)
	defer t.Stop()
	select {
	case o := <-p.result:
		return o.msg, o.err
	case <-p.ctx.Done():
		return nil, status.FromContextError(p.ctx.Err()).Err()
	case <-t.C:
		return nil, p.timeout
	case <-s.done:
		return nil, errServerClosed
	}
}

// stepLocked does one request and completes the header of its reply.
func (s *Server) stepLocked(p *proposal) outcome {
	msg, err := p.do()
	s.scheduleLocked()
	if err != nil {
		return outcome{err: err}
	}
	s.stats.Applied[p.method]++
	if h := msg.(interface{ GetHeader() *pb.ResponseHeader }).GetHeader(); h != nil {
		s.fillLocked(h)
	}
	return outcome{msg: msg}
}

func (s *Server) fillLocked(h *pb.ResponseHeader) {
	h.ClusterId, h.MemberId, h.RaftTerm = ClusterID, MemberID, s.term
	if h.Revision == 0 {
		h.Revision = s.store.rev
	}
}

// requiresLeader reports whether the client asked to be refused when there is no leader.
func requiresLeader(ctx context.Context) bool {
	md, _ := metadata.FromOutgoingContext(ctx)
	v := md[rpctypes.MetadataRequireLeaderKey]
	return len(v) > 0 && v[0] == rpctypes.MetadataHasLeader
}

func (s *Server) hasLeader() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.leader
}
