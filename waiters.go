package leasing

import (
	"context"
	"runtime"
	"slices"
	"sync"
)

// queue hands items to one loop.
type queue[T any] struct {
	mu    sync.Mutex
	items []T
	more  chan struct{} // has room for one
}

func (q *queue[T]) put(items ...T) {
	q.mu.Lock()
	q.items = append(q.items, items...)
	q.mu.Unlock()
	q.signal()
}

func (q *queue[T]) signal() {
	select {
	case q.more <- struct{}{}:
	default:
	}
}

// wait waits for items, and reports false when ctx has ended.
func (q *queue[T]) wait(ctx context.Context) bool {
	select {
	case <-q.more:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// gather is take, once whoever is ready to put something has done so: the readers
// who were woken by one batch are many of those who want the next.
func (q *queue[T]) gather(n int) []T {
	for before, now := -1, q.len(); before != now && now < n; {
		runtime.Gosched()
		before, now = now, q.len()
	}
	return q.take(n)
}

func (q *queue[T]) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.items)
}

// take removes up to n items, and wakes another loop if there are more.
func (q *queue[T]) take(n int) []T {
	q.mu.Lock()
	defer q.mu.Unlock()
	n = min(n, len(q.items))
	out := q.items[:n:n]
	if q.items = q.items[n:]; len(q.items) == 0 {
		q.items = nil
	} else {
		q.signal()
	}
	return out
}

// waiters are the writers that wait for claims to go.
type waiters struct {
	mu sync.Mutex
	m  map[string][]*waiter
}

// waiter waits for the claims of some keys. Its owner makes it before the
// REVOKEs are sent, so that no news is missed.
type waiter struct {
	gone    chan struct{}       // closed when pending is empty
	pending map[string]struct{} // guarded by waiters.mu
}

// join makes a waiter for the claims of keys, each of which may be named twice.
func (ws *waiters) join(keys ...string) *waiter {
	w := &waiter{gone: make(chan struct{}), pending: make(map[string]struct{}, len(keys))}
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for _, k := range keys {
		if _, twice := w.pending[k]; twice {
			continue
		}
		w.pending[k] = struct{}{}
		ws.m[k] = append(ws.m[k], w)
	}
	return w
}

// wake tells those who wait for key that its claim is gone.
func (ws *waiters) wake(key string) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for _, w := range ws.m[key] {
		delete(w.pending, key)
		if len(w.pending) == 0 {
			close(w.gone)
		}
	}
	delete(ws.m, key)
}

// wanted reports whether anybody waits for key.
func (ws *waiters) wanted(key string) bool {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	return len(ws.m[key]) > 0
}

// excuse lets w wait for key no longer.
func (ws *waiters) excuse(w *waiter, key string) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if _, ok := w.pending[key]; !ok {
		return
	}
	delete(w.pending, key)
	ws.removeLocked(key, w)
	if len(w.pending) == 0 {
		close(w.gone)
	}
}

// first returns the first of the claims that w still waits for, or the first of
// all if it waits for none.
func (ws *waiters) first(w *waiter, claims []claimRecord) claimRecord {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for _, r := range claims {
		if _, ok := w.pending[r.key]; ok {
			return r
		}
	}
	return claims[0]
}

// leave ends the waiting of w.
func (ws *waiters) leave(w *waiter) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for k := range w.pending {
		ws.removeLocked(k, w)
	}
	clear(w.pending)
}

func (ws *waiters) removeLocked(key string, w *waiter) {
	ws.m[key] = slices.DeleteFunc(ws.m[key], func(o *waiter) bool { return o == w })
	if len(ws.m[key]) == 0 {
		delete(ws.m, key)
	}
}
