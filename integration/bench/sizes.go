package main

import (
	"fmt"
	"time"
)

// sizes says how much is measured. etcd's leasing gets fewer keys where it
// would take minutes.
type sizes struct {
	spell   time.Duration // of one measurement in memory
	work    time.Duration // of one workload
	singles int           // operations one after the other

	claims, claimsTheirs       int
	prefetched                 int
	foreign                    int
	takeovers, takeoversTheirs int
	deleted                    int
	quarter                    int
	owned, ownedTheirs         int
	closing, closingTheirs     int
	million                    int
}

func fullSizes() *sizes {
	return &sizes{
		spell: 500 * time.Millisecond, work: time.Second, singles: 300,
		claims: 16_000, claimsTheirs: 6_000, prefetched: 10_000, foreign: 1_000,
		takeovers: 6_000, takeoversTheirs: 600, deleted: 1_000,
		quarter: 1_000, owned: 20_000, ownedTheirs: 5_000, closing: 50_000, closingTheirs: 5_000, million: 1_000_000,
	}
}

// shortSizes show that everything works, and nothing else.
func shortSizes() *sizes {
	return &sizes{
		spell: 10 * time.Millisecond, work: 30 * time.Millisecond, singles: 10,
		claims: 200, claimsTheirs: 100, prefetched: 300, foreign: 50,
		takeovers: 50, takeoversTheirs: 20, deleted: 20,
		quarter: 20, owned: 500, ownedTheirs: 200, closing: 1_000, closingTheirs: 200, million: 3_000,
	}
}

// fewer says in a note that etcd's leasing gets fewer keys.
func (s *sizes) fewer(all, theirs int) string {
	if all == theirs {
		return ""
	}
	return fmt.Sprintf("; %s keys, etcd's leasing %s", thousands(float64(all)), thousands(float64(theirs)))
}
