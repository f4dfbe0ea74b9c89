package main

import (
	"context"
	"time"

	"github.com/etcd-leasing/leasing/integration/etcdtest"
)

func stormRows() []*row {
	return []*row{
		{name: "While connections are dropped, three parties are linearizable", check: func(e *env) {
			e.storm(2*time.Second, 4*time.Second, dropConnections)
		}},
		{name: "While owners are cut off, three parties are linearizable", check: func(e *env) {
			e.storm(time.Second, 8*time.Second, cutOff)
		}},
		{name: "While replies are late, three parties are linearizable", check: func(e *env) {
			e.storm(2*time.Second, 8*time.Second, delayReplies)
		}},
		{name: "While leaders come and go, three parties are linearizable", check: func(e *env) {
			e.storm(2*time.Second, 6*time.Second, changeLeaders)
		}, etcd: []etcdtest.Option{etcdtest.Members(3)}, limit: 45 * time.Second},
	}
}

// scene is what a storm breaks.
type scene struct {
	*env
	relays []*etcdtest.Relay
	ctx    context.Context // of the storm
}

// lasts waits for d, and reports whether the storm goes on.
func (s *scene) lasts(d time.Duration) bool {
	select {
	case <-time.After(d):
	case <-s.ctx.Done():
	}
	return s.ctx.Err() == nil
}

// storm checks a history of three parties under faults.
func (e *env) storm(ttl, lasts time.Duration, faults func(*scene)) {
	h := e.record()
	s := &scene{env: e}
	var parties []*party
	for i := range 3 {
		r := e.etcd.Relay(i % e.etcd.Size())
		s.relays = append(s.relays, r)
		parties = append(parties, e.behind(r, ttl))
	}
	ctx, cancel := context.WithTimeout(e.ctx, lasts)
	defer cancel()
	s.ctx = ctx
	wait := h.play(ctx, parties)
	faults(s)
	e.returns("all calls end", within, wait)
	for _, r := range s.relays {
		r.Delay(0)
		r.Heal()
	}
	h.judge(parties)
}

func dropConnections(s *scene) {
	for i := 0; s.lasts(200 * time.Millisecond); i++ {
		s.relays[i%len(s.relays)].Reset()
	}
}

// cutOff cuts each party off in turn, for longer than its leases last.
func cutOff(s *scene) {
	ways := [][]etcdtest.Direction{nil, {etcdtest.Requests}, {etcdtest.Replies}}
	for i := 0; s.lasts(400 * time.Millisecond); i++ {
		r := s.relays[i%len(s.relays)]
		r.Cut(ways[i%len(ways)]...)
		s.lasts(1900 * time.Millisecond)
		if i%2 == 0 {
			r.Reset()
		}
		r.Heal()
	}
}

// delayReplies makes replies late, and then lets no more requests through.
func delayReplies(s *scene) {
	for i := 0; s.lasts(300 * time.Millisecond); i++ {
		r := s.relays[i%len(s.relays)]
		r.Delay(1500*time.Millisecond, etcdtest.Replies)
		s.lasts(1200 * time.Millisecond)
		r.Cut(etcdtest.Requests)
		s.lasts(2500 * time.Millisecond)
		r.Delay(0)
		r.Heal()
	}
}

func changeLeaders(s *scene) {
	for i := 0; s.lasts(700 * time.Millisecond); i++ {
		leader := s.etcd.Leader()
		if i%2 == 0 {
			s.etcd.Isolate(leader)
			s.lasts(1500 * time.Millisecond)
			s.etcd.Rejoin(leader)
		} else {
			s.etcd.MoveLeader((leader + 1) % s.etcd.Size())
		}
	}
}
