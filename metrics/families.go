package metrics

import (
	"slices"
	"time"

	"github.com/etcd-leasing/leasing"
)

// families are all that is emitted: each field of Stats once. The names are those of
// the fields, with the unit.
func families() []family {
	return slices.Concat(reads(), writes(), ownership(), session())
}

func reads() []family {
	return []family{
		counter("leasing_hits_total", "Gets, and transactions, that were answered from memory.",
			func(s *leasing.Stats) uint64 { return s.Hits }),
		counters("leasing_forwards_total", "Reads that were sent to etcd, by the reason.",
			"reason", func(s *leasing.Stats) map[string]uint64 { return byReason(s.Forwards) }),
	}
}

func byReason(f leasing.Forwards) map[string]uint64 {
	return map[string]uint64{
		"kind": f.Kind, "foreign": f.Foreign, "resting": f.Resting, "writing": f.Writing,
		"no_session": f.NoSession, "seldom": f.Seldom, "claim": f.Claim,
	}
}

func writes() []family {
	return []family{
		counter("leasing_writes_total", "Puts, deletions and writing transactions that were applied.",
			func(s *leasing.Stats) uint64 { return s.Writes }),
		counter("leasing_takeovers_total", "Writes that were applied, and had to wait for another owner.",
			func(s *leasing.Stats) uint64 { return s.Takeovers }),
		counter("leasing_gave_up_total", "Writes that ended with an error after they had to wait for another owner.",
			func(s *leasing.Stats) uint64 { return s.GaveUp }),
		counter("leasing_unknown_outcomes_total", "Writes of which it is not known whether they were applied.",
			func(s *leasing.Stats) uint64 { return s.UnknownOutcomes }),
		histogram("leasing_takeover_wait_seconds", "How long writes took that had to wait for other owners.",
			func(s *leasing.Stats) leasing.Histogram { return s.TakeoverWait }),
	}
}

func ownership() []family {
	return []family{
		gauge("leasing_entries", "Keys that are owned.",
			func(s *leasing.Stats) float64 { return float64(s.Entries) }),
		gauge("leasing_bytes", "About how much memory the owned keys take.",
			func(s *leasing.Stats) float64 { return float64(s.Bytes) }),
		counters("leasing_claims_total", "Keys that were to be claimed, by what became of it.",
			"outcome", func(s *leasing.Stats) map[string]uint64 { return byOutcome(s.Claims) }),
		histogram("leasing_claim_seconds", "How long reads waited for a claim, which many may share.",
			func(s *leasing.Stats) leasing.Histogram { return s.ClaimTime }),
		counter("leasing_revokes_sent_total", "Keys that other owners were asked for.",
			func(s *leasing.Stats) uint64 { return s.RevokesSent }),
		counter("leasing_revokes_answered_total", "Keys of this KV that others asked for.",
			func(s *leasing.Stats) uint64 { return s.RevokesAnswered }),
		counter("leasing_yields_total", "Claims of this KV that were given back, confirmed; not those that went with their leases.",
			func(s *leasing.Stats) uint64 { return s.Yields }),
		counter("leasing_evictions_total", "Keys given up because of Config.MaxKeys or Config.MaxBytes.",
			func(s *leasing.Stats) uint64 { return s.Evictions }),
		counter("leasing_idle_total", "Keys given up because of Config.IdleTimeout.",
			func(s *leasing.Stats) uint64 { return s.Idle }),
		counter("leasing_lost_total", "Owned keys whose claim somebody deleted, or whose lease was over or was given up with the session.",
			func(s *leasing.Stats) uint64 { return s.Lost }),
		counter("leasing_strangers_total", "Owned keys that were written by a program that does not use the protocol.",
			func(s *leasing.Stats) uint64 { return s.Strangers }),
	}
}

func byOutcome(c leasing.Claims) map[string]uint64 {
	return map[string]uint64{
		"made": c.Made, "foreign": c.Foreign, "refused": c.Refused, "dropped": c.Dropped, "unknown": c.Unknown,
	}
}

func session() []family {
	return []family{
		gauge("leasing_leases", "Live leases that claims hang on.",
			func(s *leasing.Stats) float64 { return float64(s.Leases) }),
		gauge("leasing_to_deadline_seconds", "Until the first of the leases is over if it is not renewed; 0 without a lease.",
			seconds(func(s *leasing.Stats) time.Duration { return s.ToDeadline })),
		gauge("leasing_round_trip_seconds", "How long the latest renewal of a lease took; 0 before the first.",
			seconds(func(s *leasing.Stats) time.Duration { return s.RoundTrip })),
		counter("leasing_watch_restarts_total", "How often the watch on the claims had to be made anew.",
			func(s *leasing.Stats) uint64 { return s.WatchRestarts }),
		counter("leasing_events_lost_total", "Events that Config.OnEvent was not told of.",
			func(s *leasing.Stats) uint64 { return s.EventsLost }),
	}
}
