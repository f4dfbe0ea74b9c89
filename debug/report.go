package debug

import (
	"encoding/base64"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/etcd-leasing/leasing"
)

const (
	version = 1  // of the JSON
	top     = 20 // how many keys are named
)

// report is all that is shown, as it is in JSON.
type report struct {
	Version    int        `json:"version"`
	Time       time.Time  `json:"time"`
	Session    session    `json:"session"`
	Leases     []lease    `json:"leases"`
	Owned      owned      `json:"owned"`
	Reads      reads      `json:"reads"`
	Claims     claims     `json:"claims"`
	Writes     writes     `json:"writes"`
	Hands      hands      `json:"hands"`
	EventsLost uint64     `json:"events_lost"`
	ClaimTime  histogram  `json:"claim_time"`
	Takeover   histogram  `json:"takeover_wait"`
	Hottest    []keyCount `json:"hottest_keys"`
	Contended  []keyCount `json:"most_contended_keys"`
	History    []interval `json:"history"`
}

type session struct {
	State     state      `json:"state"`
	Since     *time.Time `json:"since"`
	Why       string     `json:"why"`
	Deadline  float64    `json:"seconds_to_deadline"`
	RoundTrip float64    `json:"round_trip_seconds"`
	Restarts  uint64     `json:"watch_restarts"`
}

type lease struct {
	ID       string  `json:"id"` // as etcdctl writes it
	Claims   int     `json:"claims"`
	Deadline float64 `json:"seconds_to_deadline"`
}

type owned struct {
	Keys  int   `json:"keys"`
	Bytes int64 `json:"bytes"`
}

type reads struct {
	Hits     uint64   `json:"hits"`
	HitRatio *float64 `json:"hit_ratio"`
	Forwards forwards `json:"forwards"`
}

type forwards struct {
	Kind      uint64 `json:"kind"`
	Foreign   uint64 `json:"foreign"`
	Resting   uint64 `json:"resting"`
	Writing   uint64 `json:"writing"`
	NoSession uint64 `json:"no_session"`
	Seldom    uint64 `json:"seldom"`
	Claim     uint64 `json:"claim"`
}

type claims struct {
	Made    uint64 `json:"made"`
	Foreign uint64 `json:"foreign"`
	Refused uint64 `json:"refused"`
	Dropped uint64 `json:"dropped"`
	Unknown uint64 `json:"unknown"`
}

type writes struct {
	Applied         uint64 `json:"applied"`
	Takeovers       uint64 `json:"takeovers"`
	GaveUp          uint64 `json:"gave_up"`
	UnknownOutcomes uint64 `json:"unknown_outcomes"`
}

// hands is how keys changed hands.
type hands struct {
	RevokesSent     uint64 `json:"revokes_sent"`
	RevokesAnswered uint64 `json:"revokes_answered"`
	Yields          uint64 `json:"yields"`
	Evictions       uint64 `json:"evictions"`
	Idle            uint64 `json:"idle"`
	Lost            uint64 `json:"lost"`
	Strangers       uint64 `json:"strangers"`
}

type keyCount struct {
	Key    string `json:"key"`
	Base64 string `json:"key_base64,omitempty"`
	Count  uint64 `json:"count"`
}

// report asks the KV for everything. What the session says comes first, so that it is never older than
// its leases are.
func (p *Page) report(now time.Time) report {
	standing := p.kv.Standing()
	leases := p.kv.Leases()
	s := p.kv.Stats()
	hot, contended := p.kv.TopKeys(top)
	return report{
		Version: version, Time: now,
		Session: sessionOf(standing, leases, s),
		Leases:  leasesOf(leases),
		Owned:   owned{s.Entries, s.Bytes},
		Reads:   reads{s.Hits, ratio(s.Hits, s.Misses()), forwards(s.Forwards)},
		Claims:  claims(s.Claims),
		Writes:  writes{s.Writes, s.Takeovers, s.GaveUp, s.UnknownOutcomes},
		Hands: hands{
			RevokesSent: s.RevokesSent, RevokesAnswered: s.RevokesAnswered, Yields: s.Yields,
			Evictions: s.Evictions, Idle: s.Idle, Lost: s.Lost, Strangers: s.Strangers,
		},
		EventsLost: s.EventsLost,
		ClaimTime:  histogramOf(s.ClaimTime),
		Takeover:   histogramOf(s.TakeoverWait),
		Hottest:    keysOf(hot),
		Contended:  keysOf(contended),
		History:    p.history.intervals(sampleOf(s, now)),
	}
}

func leasesOf(ls []leasing.LeaseStatus) []lease {
	out := make([]lease, 0, len(ls))
	for _, l := range ls {
		out = append(out, lease{strconv.FormatInt(int64(l.ID), 16), l.Claims, l.ToDeadline.Seconds()})
	}
	return out
}

func keysOf(ks []leasing.KeyCount) []keyCount {
	out := make([]keyCount, 0, len(ks))
	for _, k := range ks {
		kc := keyCount{Key: k.Key, Count: k.Count}
		if !utf8.ValidString(k.Key) {
			kc.Base64 = base64.StdEncoding.EncodeToString([]byte(k.Key))
		}
		out = append(out, kc)
	}
	return out
}
