package proxy

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// anonymous is the leave of callers without a token: etcd asks nobody for one.
type anonymous struct {
	bound time.Duration
	open  atomic.Pointer[time.Time] // before the latest request was sent that shows it
	kick  chan struct{}             // wakes whoever asks etcd again
}

func newAnonymous(bound time.Duration) *anonymous {
	return &anonymous{bound: bound, kick: make(chan struct{}, 1)}
}

func (a *anonymous) good(now time.Time) bool {
	if a.bound == 0 {
		return false
	}
	begin := a.open.Load()
	if begin == nil || !within(*begin, now, a.bound/2) {
		select {
		case a.kick <- struct{}{}:
		default:
		}
	}
	return begin != nil && within(*begin, now, a.bound)
}

func (a *anonymous) judged(begin time.Time, err error) {
	switch {
	case err == nil:
		a.open.Store(&begin)
	case errors.Is(err, rpctypes.ErrUserEmpty):
		a.open.Store(nil)
	}
}

// run asks etcd whether it serves callers without a token, as long as there are such
// callers, so that none of them has to wait for the answer. It pauses after each
// question: while the answer is no, or none, there is one for each request.
func (a *anonymous) run(ctx context.Context, ask func(context.Context) error) {
	for {
		select {
		case <-a.kick:
		case <-ctx.Done():
			return
		}
		a.ask(ctx, ask)
		pause := time.NewTimer(a.bound / 4)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return
		}
	}
}

func (a *anonymous) ask(ctx context.Context, ask func(context.Context) error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	begin := time.Now()
	a.judged(begin, ask(ctx))
}
