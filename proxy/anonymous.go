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
	kick  chan struct{}             // tells of callers while it is not good
}

func newAnonymous(bound time.Duration) *anonymous {
	return &anonymous{bound: bound, kick: make(chan struct{}, 1)}
}

func (a *anonymous) good(now time.Time) bool {
	if a.bound == 0 {
		return false
	}
	begin := a.open.Load()
	good := begin != nil && within(*begin, now, a.bound)
	if !good {
		select {
		case a.kick <- struct{}{}:
		default:
		}
	}
	return good
}

func (a *anonymous) judged(begin time.Time, err error) {
	switch {
	case err == nil:
		a.open.Store(&begin)
	case errors.Is(err, rpctypes.ErrUserEmpty):
		a.open.Store(nil)
	}
}

// run asks etcd again and again whether it serves callers without a token, so that none
// of them has to wait for the answer. After a no it waits for such a caller.
func (a *anonymous) run(ctx context.Context, ask func(context.Context) error) {
	if a.bound == 0 {
		return
	}
	for {
		pause := time.NewTimer(a.bound / 3)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return
		}
		if a.open.Load() == nil {
			select {
			case <-a.kick:
			case <-ctx.Done():
				return
			}
		}
		a.ask(ctx, ask)
	}
}

// ask asks once.
func (a *anonymous) ask(ctx context.Context, ask func(context.Context) error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	begin := time.Now()
	a.judged(begin, ask(ctx))
}
