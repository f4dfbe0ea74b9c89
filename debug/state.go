package debug

import (
	"github.com/etcd-leasing/leasing"
)

// state is how the session stands.
type state string

const (
	none     state = "none" // no key could be owned yet
	valid    state = "valid"
	jeopardy state = "jeopardy"
	lost     state = "lost"
)

// String returns the state in words.
func (s state) String() string {
	switch s {
	case none:
		return "not yet valid"
	case jeopardy:
		return "in jeopardy"
	}
	return string(s)
}

// Class is the state's class in the style sheet.
func (s state) Class() string { return string(s) }

// Means says what a state comes to.
func (s state) Means() string {
	switch s {
	case none:
		return "No key could be owned yet: reads are sent to etcd until a lease is granted and the watch on the claims runs."
	case valid:
		return "Keys can be owned, and reads of owned keys are answered from memory."
	case jeopardy:
		return "No key can be owned: all reads are sent to etcd. The KV tries to get over it."
	}
	return "No key will be owned any more: the KV was closed, or what bounds its life is over."
}

// sessionOf is how the session stands. A session that has no live lease left, and has not noticed yet, is
// in jeopardy all the same.
func sessionOf(e leasing.Event, leases []leasing.LeaseStatus, s leasing.Stats) session {
	out := session{
		State: none, Why: e.Why, Since: &e.Time,
		Deadline: s.ToDeadline.Seconds(), RoundTrip: s.RoundTrip.Seconds(), Restarts: s.WatchRestarts,
	}
	switch e.Kind {
	case leasing.SessionValid, leasing.SessionRecovered:
		out.State = valid
		if len(leases) == 0 {
			out.State, out.Why, out.Since = jeopardy, "no lease is live", nil
		}
	case leasing.SessionJeopardy:
		out.State = jeopardy
	case leasing.SessionLost:
		out.State = lost
	default:
		out.Since = nil
	}
	return out
}
