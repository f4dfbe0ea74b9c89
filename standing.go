package leasing

import (
	"slices"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// standing is whether the session can own keys.
type standing uint8

const (
	unborn   standing = iota // not yet
	valid                    // some lease is live
	jeopardy                 // none is, but one may be granted again
	lost                     // for good
)

// judge takes note of it, and tells, when the session can own keys or cannot any
// more. It is called by whoever may have changed that.
func (s *session) judge(why string) {
	now := time.Now()
	s.mu.Lock()
	live := slices.ContainsFunc(s.leases, func(l *lease) bool { return l.live(now) })
	kind := EventKind(0)
	switch {
	case s.standing == lost:
	case s.ended:
		s.standing, kind = lost, SessionLost
	case live && s.standing == unborn:
		s.standing, kind = valid, SessionValid
	case live && s.standing == jeopardy:
		s.standing, kind = valid, SessionRecovered
	case !live && s.standing == valid:
		s.standing, kind = jeopardy, SessionJeopardy
	}
	s.mu.Unlock()
	if kind == 0 {
		return
	}
	s.cache.events.session(kind, why)
	level := zapcore.InfoLevel
	if kind == SessionJeopardy {
		level = s.jeopardies.level(now, zapcore.WarnLevel)
	}
	s.log.Log(level, "leasing: "+kind.String(), zap.String("why", why), zap.String("prefix", s.layout.prefix))
}

// census returns how many live leases there are, and how long the first of them to be
// over still lasts.
func (s *session) census(now time.Time) (n int, rest time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.leases {
		if !l.live(now) {
			continue
		}
		if d := l.deadline().Sub(now); n == 0 || d < rest {
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
