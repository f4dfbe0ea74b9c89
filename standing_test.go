package leasing

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/etcd-leasing/leasing/internal/memetcd"
)

// How a session stands, since when, and why, without an observer.
func TestStanding(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		since := time.Time{}
		for _, step := range []struct {
			what string
			do   func()
			want EventKind
			why  string
		}{
			{"begun", func() {}, SessionValid, "a lease was granted"},
			{"cut off", func() { r.conn.Cut(memetcd.Both); time.Sleep(2 * rigTTL) }, SessionJeopardy, "its deadline has passed"},
			{"healed", func() { r.conn.Heal(); time.Sleep(rigTTL) }, SessionRecovered, "a lease was granted"},
			{"closed", func() { r.kv.Close() }, SessionLost, "the KV is closed"},
		} {
			step.do()
			got := r.kv.Standing()
			if got.Kind != step.want || got.Why != step.why || !got.Time.After(since) || got.Time.After(time.Now()) {
				t.Errorf("%s: %+v, want %v because %q, later than %v", step.what, got, step.want, step.why, since)
			}
			since = got.Time
			time.Sleep(time.Second)
		}
	})
}

// Each lease is listed with its claims and its deadline, for as long as it is live.
func TestLeases(t *testing.T) {
	onRigOf(t, fourPerLease, func(t *testing.T, r *rig) {
		for i := range 6 {
			r.get(fmt.Sprint("k", i))
			time.Sleep(time.Second)
		}
		want, claims := r.kv.Stats(), 0
		got := r.kv.Leases()
		for _, l := range got {
			claims += l.Claims
			if l.Claims > 4 || l.ToDeadline < want.ToDeadline || l.ToDeadline > rigTTL || l.ID == 0 {
				t.Errorf("a lease of four claims at most, the first of %v: %+v", want.ToDeadline, l)
			}
		}
		first := slices.ContainsFunc(got, func(l LeaseStatus) bool { return l.ToDeadline == want.ToDeadline })
		if len(got) != want.Leases || len(got) < 2 || claims != 6 || !first {
			t.Errorf("%d leases with %d claims, want %d with 6, the first of %v: %+v", len(got), claims, want.Leases, want.ToDeadline, got)
		}
		r.conn.Cut(memetcd.Both)
		time.Sleep(rigTTL)
		if got := r.kv.Leases(); len(got) != 0 {
			t.Errorf("leases whose deadline has passed: %+v", got)
		}
	})
}
