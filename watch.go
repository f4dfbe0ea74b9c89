package leasing

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// listenLoop keeps the watch on the claims running.
func (s *session) listenLoop() {
	pace := backoff{first: 20 * time.Millisecond, last: 5 * time.Second}
	next := int64(0) // the revision to go on from; 0: none yet; gap: it was compacted
	for {
		began := time.Now()
		if next != 0 {
			s.cache.count.watchRestarts.Add(1)
		}
		err := s.listen(&next)
		if s.ctx.Err() != nil {
			return
		}
		s.deafen(err)
		if time.Since(began) > pace.last {
			pace.reset()
		}
		if !sleep(s.ctx, pace.pause()) {
			return
		}
	}
}

const gap = -1

// listen watches the claims from revision *next on until the watch fails.
//
// Invariant: I14. After a gap it lists the claims first, to make up for what
// it missed.
func (s *session) listen(next *int64) error {
	if *next == gap {
		ctx, cancel := context.WithTimeout(s.ctx, 2*callTimeout)
		listing, rev, err := s.list(ctx, keyRange{s.layout.prefix, s.layout.end})
		cancel()
		if err != nil {
			return err
		}
		s.yield(s.cache.reconcile(listing, rev, s.ours, time.Now()))
		*next = rev + 1
	}
	ctx, cancel := context.WithCancel(s.voice(s.ctx))
	defer cancel()
	s.mu.Lock()
	s.relisten = cancel
	s.mu.Unlock()
	events := s.watcher.Watch(ctx, s.layout.prefix, clientv3.WithRange(s.layout.end),
		clientv3.WithRev(*next), clientv3.WithCreatedNotify())
	for resp := range events {
		if resp.CompactRevision != 0 {
			*next = gap
			return resp.Err()
		}
		if err := resp.Err(); err != nil {
			return err
		}
		s.hears()
		if resp.Created && *next == 0 {
			s.survey()
		}
		var yields []yield // all of them, so that they go in one batch
		for _, ev := range resp.Events {
			yields = append(yields, s.apply(ev)...)
			*next = ev.Kv.ModRevision + 1
		}
		s.yield(yields)
		if resp.IsProgressNotify() || resp.Created && *next == 0 {
			*next = resp.Header.Revision + 1
		}
		s.cache.observe(resp.Header)
		if resp.Created {
			s.hear()
		}
	}
	return errors.New("leasing: watch ended")
}

// survey looks which keys others own, up to a page of them, so that they are read
// plainly. What becomes of their claims the watch tells, which waits for this.
func (s *session) survey() {
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	resp, err := s.kv.Get(ctx, s.layout.prefix, clientv3.WithRange(s.layout.end), clientv3.WithLimit(listPage))
	if err != nil {
		s.log.Debug("leasing: cannot list the claims of others", zap.Error(err))
		return
	}
	for _, kv := range resp.Kvs {
		if r := s.layout.record(kv); !s.ours(r) {
			s.cache.taken(r, time.Now())
		}
	}
}

// apply takes in one event of the watch, and returns the claims to be deleted.
func (s *session) apply(ev *clientv3.Event) []yield {
	now := time.Now()
	if ev.Type == mvccpb.DELETE {
		key := string(ev.Kv.Key[len(s.layout.prefix):])
		if l := s.cache.deleted(key, ev.Kv.ModRevision); l != nil {
			l.suspect(now)
			s.nudge()
		}
		s.waiters.wake(key)
		return nil
	}
	r := s.layout.record(ev.Kv)
	switch ours := s.ours(r); {
	case r.revoked || ev.IsModify() && r.key != "": // nothing but a REVOKE is ever written into a claim, unless by hand
		return s.cache.revoked(r, ours, now)
	case ours:
		return s.cache.created(r)
	}
	s.cache.taken(r, now)
	return nil
}

// listPage is how many claims are listed in one request.
const listPage = 5000

// list returns the claims in a range of the claim prefix, and a revision: every
// claim in the range that is not newer than it is listed, unless it is gone.
// What is listed may be newer: each page is as of its own time, so that a
// compaction between two of them does not matter.
func (s *session) list(ctx context.Context, r keyRange) (listing []claimRecord, rev int64, err error) {
	for begin := r.begin; ; {
		resp, err := s.kv.Get(ctx, begin, clientv3.WithRange(r.end), clientv3.WithLimit(listPage))
		if err != nil {
			return nil, 0, err
		}
		if rev == 0 {
			rev = resp.Header.Revision
		}
		for _, kv := range resp.Kvs {
			listing = append(listing, s.layout.record(kv))
		}
		if !resp.More {
			return listing, rev, nil
		}
		begin = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
	}
}

// hears notes a sign of life of the watch.
func (s *session) hears() { s.heard.Store(int64(time.Since(s.born))) }

// lastHeard is when the watch gave its last sign of life.
func (s *session) lastHeard() time.Time { return s.born.Add(time.Duration(s.heard.Load())) }

// silent reports whether the watch has given no sign of life for too long. It
// is asked for one more often than that.
func (s *session) silent(now time.Time) bool {
	return now.Sub(s.lastHeard()) > deafness
}

// hear is told that the watch runs.
func (s *session) hear() {
	s.mu.Lock()
	s.ears, s.deafened = true, false
	s.trouble = nil
	s.mu.Unlock()
	s.nudge()
}

// startOver gives everything back and begins anew with another watch.
//
// Invariant: I14. Nothing is claimed until that one runs.
func (s *session) startOver(why string) {
	s.mu.Lock()
	s.ears = false
	relisten := s.relisten
	s.mu.Unlock()
	relisten()
	s.reset(why)
}

// deafen is told that the watch does not run. If etcd refuses it, everything
// is yielded; else that is left to keepLoop, should it last.
//
// Invariant: I14.
func (s *session) deafen(err error) {
	s.mu.Lock()
	s.ears = false
	first := !s.deafened
	refusal := isRefusedWatch(err)
	s.trouble = fmt.Errorf("the watch on the claim prefix fails: %w", err)
	if refusal {
		s.deafened = true
		s.trouble = fmt.Errorf("etcd refuses the watch on the claim prefix: %w", err)
	}
	s.mu.Unlock()
	s.refuseQueued()
	if !refusal {
		s.log.Debug("leasing: watch interrupted", zap.Error(err))
		return
	}
	if first {
		s.log.Warn("leasing: etcd refuses the watch on the claim prefix, reads go to etcd",
			zap.String("prefix", s.layout.prefix), zap.Error(err))
	}
	s.reset("etcd refuses the watch on the claims")
	s.readyOnce.Do(func() { close(s.ready) })
}
