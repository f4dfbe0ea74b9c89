package leasing

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/etcd-leasing/leasing/internal/memetcd"
)

// brokenWatcher is a Watcher whose watch ends when down is set, and fails each time that
// it is made again.
type brokenWatcher struct {
	clientv3.Watcher
	down atomic.Bool
	stop atomic.Pointer[context.CancelFunc]
}

func (w *brokenWatcher) Watch(ctx context.Context, key string, opts ...clientv3.OpOption) clientv3.WatchChan {
	if w.down.Load() {
		none := make(chan clientv3.WatchResponse)
		close(none)
		return none
	}
	ctx, cancel := context.WithCancel(ctx)
	w.stop.Store(&cancel)
	return w.Watcher.Watch(ctx, key, opts...)
}

// A watch that fails again and again is down, however often it is made: nobody can ask
// for the keys, so they are given back.
func TestI14WatchThatKeepsFailing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := memetcd.New(memetcd.Options{})
		defer srv.Close()
		cl, conn := srv.Client("kv")
		w := &brokenWatcher{Watcher: cl.Watcher}
		cl.Watcher = w
		kv, err := New(t.Context(), cl, Config{Prefix: "claims/", TTL: rigTTL})
		if err != nil {
			t.Fatal(err)
		}
		defer kv.Close()
		r := &rig{t: t, srv: srv, conn: conn, kv: kv}
		r.get("k")
		w.down.Store(true)
		(*w.stop.Load())()
		r.wantGivenBack("k")
	})
}

// Nor is it up if whatever is in the way refuses it in words that are not etcd's.
func TestI14WatchIsRefusedInOtherWords(t *testing.T) {
	for _, code := range []codes.Code{codes.PermissionDenied, codes.ResourceExhausted, codes.Unimplemented} {
		t.Run(code.String(), func(t *testing.T) {
			onRig(t, func(t *testing.T, r *rig) {
				r.get("k")
				r.refuseWatches(code)
				defer r.conn.Intercept(nil)
				r.conn.Reset()
				r.wantGivenBack("k")
				warned := r.logs.FilterLevelExact(zapcore.WarnLevel).FilterMessageSnippet("silent while leases are renewed").All()
				if len(warned) != 1 || !strings.Contains(warned[0].ContextMap()["latest"].(string), "denied by the mesh") {
					t.Errorf("warned %v", warned)
				}
			})
		})
	}
}

// New cannot know whether that will pass, but says what it waits for, and what it waited
// for in vain.
func TestNewTellsWhyTheWatchFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := memetcd.New(memetcd.Options{})
		defer srv.Close()
		cl, conn := srv.Client("kv")
		r := &rig{t: t, srv: srv, conn: conn}
		r.refuseWatches(codes.PermissionDenied)
		core, logs := observer.New(zapcore.WarnLevel)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := New(ctx, cl, Config{Prefix: "claims/", Logger: zap.New(core)})
		if err == nil || !strings.Contains(err.Error(), "denied by the mesh") || !strings.Contains(err.Error(), "deadline exceeded") {
			t.Errorf("the error is %v", err)
		}
		warned := logs.FilterMessageSnippet("still no session").All()
		if len(warned) != 1 || !strings.Contains(warned[0].ContextMap()["latest"].(string), "denied by the mesh") {
			t.Errorf("the log says %v", warned)
		}
	})
}

func (r *rig) refuseWatches(code codes.Code) {
	r.on(memetcd.MethodWatch, func(context.Context, proto.Message, next) (proto.Message, error) {
		return nil, status.Error(code, "denied by the mesh")
	})
}

// wantGivenBack fails unless another client can write the key before two TTLs are over,
// though our leases are renewed.
func (r *rig) wantGivenBack(key string) {
	r.t.Helper()
	other, _ := r.other("other", 0)
	defer other.Close()
	ctx, cancel := context.WithTimeout(r.t.Context(), 2*rigTTL)
	defer cancel()
	if _, err := other.Put(ctx, key, "v"); err != nil {
		r.t.Errorf("a writer waited for %s and gave up: %v; the key is owned: %v", 2*rigTTL, err, r.kv.Owned(key))
	}
}

// Who could not claim a single key is told why.
func TestPrefetchSaysWhy(t *testing.T) {
	for what, tc := range map[string]struct {
		wrong, right func(r *rig)
		is           error
	}{
		"no right to write claims": {
			func(r *rig) {
				r.conn.Deny(func(key, _ []byte, write bool) bool { return write && strings.HasPrefix(string(key), "claims/") })
			},
			func(r *rig) { r.conn.Deny(nil) }, rpctypes.ErrPermissionDenied,
		},
		"etcd is out of space": {
			func(r *rig) { r.srv.SetNoSpace(true) },
			func(r *rig) { r.srv.SetNoSpace(false) }, rpctypes.ErrNoSpace,
		},
	} {
		t.Run(what, func(t *testing.T) {
			onRig(t, func(t *testing.T, r *rig) {
				plain := r.srv.NewClient("plain")
				for i := range 150 {
					if _, err := plain.Put(t.Context(), fmt.Sprintf("k%03d", i), "v"); err != nil {
						t.Fatal(err)
					}
				}
				tc.wrong(r)
				if n, err := r.kv.Prefetch(t.Context(), "k", clientv3.WithPrefix()); n != 0 || !errors.Is(err, tc.is) {
					t.Errorf("%d keys are owned, and the error is %v", n, err)
				}
				tc.right(r)
				time.Sleep(time.Minute) // the keys rest that were refused
				if n, err := r.kv.Prefetch(t.Context(), "k", clientv3.WithPrefix()); n != 150 || err != nil {
					t.Errorf("afterwards %d keys are owned, and the error is %v", n, err)
				}
			})
		})
	}
}

// A claim that was under way when etcd refused the watch, and went well, does not make
// anybody wait for the watch.
func TestRefusedWatchStaysRefused(t *testing.T) {
	s := &session{cache: newCache(10), log: zap.NewNop(), layout: newLayout("claims/"), ready: make(chan struct{}), kick: make(chan struct{}, 1)}
	s.deafen(rpctypes.ErrPermissionDenied)
	s.holdClaims(nil)
	if why, stays := s.obstacle(time.Now()); !stays || why == nil {
		t.Errorf("the obstacle is %v, and stays: %v", why, stays)
	}
}
