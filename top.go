package leasing

import (
	"cmp"
	"slices"
	"strings"
	"sync"
)

// KeyCount is a key and how often something happened to it.
type KeyCount struct {
	Key   string
	Count uint64
}

// TopKeys returns up to n keys, 64 at most, that were read most from memory, by gets or
// by transactions, and as many that others asked for most often, since the KV was made.
// The counts are about right for keys that are far ahead of others, and too low where
// more than 256 keys share what is counted. Of reads, one in 64 is noted and counts as 64,
// so a key that was read a few times has 64 or is not there. Keys may be sensitive: they
// are data of the application's.
func (kv *KV) TopKeys(n int) (hot, contended []KeyCount) {
	c := &kv.cache.count
	hot = c.hot.top(n)
	for i := range hot {
		hot[i].Count *= sampled
	}
	return hot, c.contended.top(n)
}

// sampled is how many hits there are to one whose keys are noted.
const sampled = 64

// topKeys finds the keys that come most often (Misra and Gries, 1982): every key that
// is more than one in maxTop of all is among them.
type topKeys struct {
	mu     sync.Mutex // guards counts; nothing blocks under it
	counts map[string]uint64
}

const maxTop = 256

// note counts a key, unless somebody else is just doing so.
func (t *topKeys) note(key string) {
	if !t.mu.TryLock() {
		return
	}
	defer t.mu.Unlock()
	if n, ok := t.counts[key]; ok {
		t.counts[key] = n + 1
		return
	}
	if t.counts == nil {
		t.counts = make(map[string]uint64)
	}
	if len(t.counts) < maxTop {
		t.counts[strings.Clone(key)] = 1 // the caller's may be part of something large
		return
	}
	for k, n := range t.counts {
		if n == 1 {
			delete(t.counts, k)
		} else {
			t.counts[k] = n - 1
		}
	}
}

// top returns the n keys that came most often, from the first on.
func (t *topKeys) top(n int) []KeyCount {
	t.mu.Lock()
	out := make([]KeyCount, 0, len(t.counts))
	for k, n := range t.counts {
		out = append(out, KeyCount{k, n})
	}
	t.mu.Unlock()
	slices.SortFunc(out, func(a, b KeyCount) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), strings.Compare(a.Key, b.Key))
	})
	return out[:max(0, min(n, 64, len(out)))]
}
