package memetcd

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// maxTTL is the longest time to live that etcd grants, in seconds.
const maxTTL = 9_000_000_000

// maxLife keeps such a lease on a slow clock within what a time.Duration holds.
const maxLife = float64(9_200_000_000 * time.Second)

// lease is one lease and the keys that hang on it.
type lease struct {
	id     int64
	ttl    int64 // seconds, as granted
	expiry time.Time
	keys   map[string]struct{}
}

// lessor is the set of leases: a passive table. It has no clock of its own, and it is the server that
// deletes a lease's keys. The server guards it with its lock.
type lessor struct {
	leases map[int64]*lease
	nextID int64
	minTTL int64
	rate   float64 // how fast the server's clock runs
}

func newLessor(minTTL int64, rate float64) *lessor {
	return &lessor{leases: make(map[int64]*lease), nextID: 1000, minTTL: minTTL, rate: rate}
}

// get returns nil if there is no such lease.
func (l *lessor) get(id int64) *lease { return l.leases[id] }

// grant makes a lease, with an id of its own choice if id is 0.
func (l *lessor) grant(id, ttl int64, now time.Time) (*lease, error) {
	if id == 0 {
		for l.leases[l.nextID] != nil {
			l.nextID++
		}
		id = l.nextID
		l.nextID++
	}
	if ttl > maxTTL {
		return nil, rpctypes.ErrGRPCLeaseTTLTooLarge
	}
	if l.leases[id] != nil {
		return nil, rpctypes.ErrGRPCLeaseExist
	}
	le := &lease{id: id, ttl: max(ttl, l.minTTL), keys: make(map[string]struct{})}
	l.leases[id] = le
	l.renew(le, now)
	return le, nil
}

func (l *lessor) renew(le *lease, now time.Time) { le.expiry = now.Add(l.life(le)) }

// life is how long the lease lasts on the clock of everybody but the server.
func (l *lessor) life(le *lease) time.Duration {
	d := float64(le.ttl) * float64(time.Second) / l.rate
	return time.Duration(min(d, maxLife))
}

// remaining is what the server believes is left of the lease, in whole seconds.
func (l *lessor) remaining(le *lease, now time.Time) int64 {
	return int64(le.expiry.Sub(now).Seconds() * l.rate)
}

// attach moves a key from one lease to another; 0 is none.
func (l *lessor) attach(key string, from, to int64) {
	if le := l.leases[from]; le != nil {
		delete(le.keys, key)
	}
	if le := l.leases[to]; le != nil {
		le.keys[key] = struct{}{}
	}
}

func (le *lease) sortedKeys() []string { return slices.Sorted(maps.Keys(le.keys)) }

// byExpiry lists all leases, the next one to run out first.
func (l *lessor) byExpiry() []*lease {
	return slices.SortedFunc(maps.Values(l.leases), func(a, b *lease) int {
		return cmp.Or(a.expiry.Compare(b.expiry), cmp.Compare(a.id, b.id))
	})
}

// nextExpiry is when the next lease runs out, the zero time if there is none.
func (l *lessor) nextExpiry() time.Time {
	var next time.Time
	for _, le := range l.leases {
		if next.IsZero() || le.expiry.Before(next) {
			next = le.expiry
		}
	}
	return next
}
