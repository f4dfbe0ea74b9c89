package leasing

import (
	"slices"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Standing returns the latest event of the session: whether keys can be owned, since
// when, and why. Its Kind is zero if none could be owned yet. The session notices a
// deadline that has passed when it comes to look, so Leases may be empty a moment before.
func (kv *KV) Standing() Event {
	s := kv.session
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.standing
}

// LeaseStatus is a lease that claims hang on.
type LeaseStatus struct {
	ID         clientv3.LeaseID
	Claims     int           // claims that hang on it, or may do so: those under way are counted
	ToDeadline time.Duration // until it is over if it is not renewed
}

// Leases returns the leases that are live, in the order in which they were granted.
// There is one for each 1,000 keys, or for each 100 with password authentication.
func (kv *KV) Leases() []LeaseStatus {
	s, now := kv.session, time.Now()
	s.mu.Lock()
	leases := slices.Clone(s.leases)
	s.mu.Unlock()
	var out []LeaseStatus
	for _, l := range leases {
		rest := l.deadline().Sub(now) // before it is known to be live: it may end meanwhile
		if l.live(now) {
			out = append(out, LeaseStatus{ID: l.id, Claims: -s.cache.room(l, 0), ToDeadline: rest})
		}
	}
	return out
}

// judge takes note of it, and tells, when the session can own keys or cannot any
// more. It is called by whoever may have changed that.
func (s *session) judge(why string) {
	now := time.Now()
	s.mu.Lock()
	live := slices.ContainsFunc(s.leases, func(l *lease) bool { return l.live(now) })
	kind := EventKind(0)
	switch was := s.standing.Kind; {
	case was == SessionLost:
	case s.ended:
		kind = SessionLost
	case live && was == 0:
		kind = SessionValid
	case live && was == SessionJeopardy:
		kind = SessionRecovered
	case !live && (was == SessionValid || was == SessionRecovered):
		kind = SessionJeopardy
	}
	if kind != 0 {
		s.standing = Event{Kind: kind, Time: now, Why: why}
		s.cache.events.session(kind, why) // under the lock, so that events come in order
	}
	s.mu.Unlock()
	if kind == 0 {
		return
	}
	level := zapcore.InfoLevel
	if kind == SessionJeopardy {
		level = s.jeopardies.level(now, zapcore.WarnLevel)
	}
	s.log.Log(level, "leasing: "+kind.String(), zap.String("why", why), zap.String("prefix", s.layout.prefix))
}

// inTrouble notes what keeps the session from owning keys, for whoever has to say why.
func (s *session) inTrouble(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trouble = err
}

// troubles returns what keeps the session from owning keys, as far as it is known.
func (s *session) troubles() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.trouble
}

// census returns how many live leases there are, and how long the first of them to be
// over still lasts.
func (s *session) census(now time.Time) (n int, rest time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.leases {
		d := l.deadline().Sub(now) // before it is known to be live: it may end meanwhile
		if !l.live(now) {
			continue
		}
		if n == 0 || d < rest {
			rest = d
		}
		n++
	}
	return n, rest
}

// seldom keeps a message that could come again and again out of the log: it is told at
// its level once in a while, and at Debug meanwhile.
type seldom struct {
	next atomic.Int64 // when to tell again, in nanoseconds since 1970
}

const seldomPause = 10 * time.Second

// level returns the level of a message at now.
func (r *seldom) level(now time.Time, level zapcore.Level) zapcore.Level {
	if now.UnixNano() < r.next.Load() {
		return zapcore.DebugLevel
	}
	r.next.Store(now.Add(seldomPause).UnixNano())
	return level
}
