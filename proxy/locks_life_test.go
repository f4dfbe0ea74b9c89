package proxy

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// A clean-up bears what its call bears, and ends: some time after the caller has left,
// with the call, or when no call may go on.
func TestLifeOfACallsClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		over, end := context.WithCancel(t.Context())
		calls := perCall{over: over}
		ctx, leave := context.WithCancel(handling(t.Context(), "token", "alice"))
		cl, done := calls.client(ctx)
		leave()
		time.Sleep(cleanUpTimeout - 1)
		synctest.Wait()
		if token, _ := tokenOf(cl.Ctx()); cl.Ctx().Err() != nil || token != "alice" || ofSession(cl.Ctx()) {
			t.Errorf("%v, for %q", cl.Ctx().Err(), token)
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if cl.Ctx().Err() == nil {
			t.Error("it goes on for ever")
		}
		done()
		cl, done = calls.client(t.Context())
		if done(); cl.Ctx().Err() == nil {
			t.Error("it goes on after the call")
		}
		cl, done = calls.client(t.Context())
		defer done()
		end()
		synctest.Wait()
		if cl.Ctx().Err() == nil {
			t.Error("it goes on after the end")
		}
	})
}
