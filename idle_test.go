package leasing

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"github.com/etcd-leasing/leasing/internal/memetcd"
)

// longScript is a script whose lease does not end.
func longScript(t *testing.T) *script {
	s := newScript(t)
	s.leases["L1"] = newLease(1, s.start, 10000*time.Hour)
	return s
}

// keep plays the keeper until the given time: it sweeps whenever that is due,
// late by up to slack.
func (s *script) keep(rng *rand.Rand, until time.Time, slack, idle time.Duration) (gone map[string]time.Time) {
	gone = make(map[string]time.Time)
	for !s.now.After(until) {
		ys, next := s.c.sweep(s.now, idle)
		for _, y := range ys {
			gone[y.key] = s.now
			s.c.yielded(y, 1<<40, true)
		}
		if !next.After(s.now) {
			continue
		}
		s.now = next
		if slack > 0 {
			s.now = s.now.Add(rand.N(slack))
		}
	}
	s.now = until
	return gone
}

// A key is given up between 1 and 1.25 times the timeout after its last read, or
// after it came; more than that only by as much as the sweeps are late.
func TestIdleKeyGoesInTime(t *testing.T) {
	const idle, slack = time.Minute, 1500 * time.Millisecond
	for seed := range uint64(5) {
		rng := rand.New(rand.NewPCG(seed, 3))
		s := longScript(t)
		s.c.limit = 500
		last := make(map[string]time.Time)
		went := 0
		for i := range 3000 {
			for k, at := range s.keep(rng, s.now.Add(time.Duration(rng.IntN(1000))*time.Millisecond), slack, idle) {
				if d := at.Sub(last[k]); d < idle || d > idle*3/2 {
					t.Errorf("seed %d: %s was given up %v after its last read", seed, k, d)
				}
				went++
			}
			k := fmt.Sprint("k", rng.IntN(1+rng.IntN(400)))
			if s.c.lookup(k) == nil {
				s.play(owning(k, int64(i+10)))
			}
			last[k] = s.now
		}
		if went < 100 || s.c.count.idled.Load() != uint64(went) {
			t.Errorf("seed %d: %d keys were given up, counted as %d", seed, went, s.c.count.idled.Load())
		}
		s.keep(rng, s.now.Add(2*idle), 0, idle)
		if n := s.c.owning.len(); n != 0 || s.c.count.evictions.Load() != 0 {
			t.Errorf("seed %d: %d keys are owned in the end that nobody reads, %d were evicted", seed, n, s.c.count.evictions.Load())
		}
	}
}

// The exact bounds, with sweeps that are never late.
func TestIdleTimeoutBounds(t *testing.T) {
	const idle = 8 * time.Second
	for read := time.Duration(0); read <= 2*time.Second; read += 100 * time.Millisecond {
		s := longScript(t)
		s.keep(nil, s.start.Add(time.Second/2), 0, idle)
		s.play(owning("k", 5))
		s.keep(nil, s.start.Add(3*time.Second+read), 0, idle)
		s.play("read k => v@3 5")
		last := s.now
		gone := s.keep(nil, s.now.Add(time.Minute), 0, idle)
		if d := gone["k"].Sub(last); d < idle || d > idle*5/4 {
			t.Errorf("given up %v after its last read", d)
		}
	}
}

// Keys are forgotten before they are released, and rest no longer than others.
// A key that is being written is not idle.
func TestI7IdleKeyIsForgottenBeforeItIsReleased(t *testing.T) {
	s := longScript(t)
	story := ""
	for range idlePasses {
		story += "sweep 8s \n read hot => v@3 6 \n wait 1s \n"
	}
	s.play(owning("k", 5) + owning("hot", 6) + owning("w", 7) + "begin W w => w@7 \n" + story + `
		sweep 8s                => yield k@5
		read k                  => ?
		state k                 => yielding@5
		read hot                => v@3 6
		yielded k@5
		state k                 => none
		state w                 => owned@7 writes=1
		applied W @9 w=x@9
		read hot                => v@3 6
		wait 1s
		sweep 8s                => yield w@7
		join D k                => begun sharing
	`)
	// However long the write takes, its key goes after it.
	s = longScript(t)
	s.play(owning("w", 7) + "begin W w => w@7 \n")
	for range 300 {
		s.play("wait 1s \n sweep 8s \n state w => owned@7 writes=1")
	}
	s.play("applied W @9 w=x@9 \n wait 1s \n sweep 8s => yield w@7")
}

// The lock is held for some thousand keys at a time.
func TestIdleSweepLetsGoOfTheLock(t *testing.T) {
	const keys, idle = 3*idleChunk + 10, time.Minute
	s := longScript(t)
	ownMany(s.c, keys, 10, 1)
	gone := 0
	for range idlePasses + 2 {
		for calls := 1; ; calls++ {
			ys, next := s.c.sweep(s.now, idle)
			if gone += len(ys); len(ys) > idleChunk+keys/youngShare+1 {
				t.Fatalf("%d keys given up in one go", len(ys))
			}
			if next.After(s.now) {
				if calls < keys/idleChunk && gone == 0 {
					t.Errorf("a pass took %d calls for %d keys", calls, keys)
				}
				s.now = next
				break
			}
		}
	}
	if gone != keys || s.c.count.idled.Load() != keys {
		t.Errorf("%d keys of %d were given up, counted as %d", gone, keys, s.c.count.idled.Load())
	}
	if bad := inconsistency(s.c); bad != "" {
		t.Error(bad)
	}
}

// Keys that come and go between the parts of a pass make it miss none of the
// others.
func TestIdleSweepMissesNobody(t *testing.T) {
	const idle = 8 * time.Second
	s := longScript(t)
	ownMany(s.c, 2*idleChunk, 10, 1)
	s.c.sweep(s.now, idle)
	s.c.entries.each(func(e *entry) {
		if e.slot%7 == 1 {
			s.c.dropLocked(e)
		}
	})
	ownMany(s.c, 2*idleChunk+500, 11, 1)
	for next := s.now; !next.After(s.now); {
		_, next = s.c.sweep(s.now, idle)
	}
	s.c.entries.each(func(e *entry) { e.reads.Or(recent) })
	s.now = s.now.Add(time.Second)
	s.c.sweep(s.now, idle)
	s.c.entries.each(func(e *entry) {
		if e.slot%5 == 1 {
			s.c.dropLocked(e)
		}
	})
	for next := s.now; !next.After(s.now); {
		_, next = s.c.sweep(s.now, idle)
	}
	s.c.entries.each(func(e *entry) {
		if e.reads.Load()&recent != 0 {
			t.Errorf("%s was missed", e.key)
		}
	})
}

// Readers give up nothing: not by reading, nor by claiming.
func TestIdleIsNotForReaders(t *testing.T) {
	s := longScript(t)
	s.play("sweep 8s \n" + owning("k", 5) + `
		wait 24h
		read k                  => v@3 5
	` + owning("j", 6) + `
		wait 30m
		join C i                => begun sharing
		send C
		refused C @7 v@3
		read k                  => v@3 5
		read j                  => v@3 6
	`)
	code, _, fset := sources(t)
	for name, file := range code {
		selected(file, func(_, sel string, at ast.Node) {
			if (sel == "sweep" || sel == "yieldIdle") && name != "keeper.go" {
				t.Errorf("%v sweeps", fset.Position(at.Pos()))
			}
		})
	}
}

// A key that is read all the time stays, however the reads and the sweeps meet.
func TestIdleSweepBesideReaders(t *testing.T) {
	const idle = time.Minute
	s := longScript(t)
	s.play(owning("k", 5) + owning("l", 6))
	var reads atomic.Int64
	var done atomic.Bool
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for !done.Load() {
				if s.c.lookup("k") == nil {
					t.Error("given up while it is read")
					return
				}
				reads.Add(1)
				runtime.Gosched()
			}
		})
	}
	gone := 0
	for range 200 {
		for before := reads.Load(); reads.Load() < before+4 && !t.Failed(); { // each has read once, from the beginning
			runtime.Gosched()
		}
		ys, next := s.c.sweep(s.now, idle)
		gone += len(ys)
		s.now = next
	}
	done.Store(true)
	wg.Wait()
	if gone != 1 {
		t.Errorf("%d keys were given up, want the other one", gone)
	}
}

// IdleTimeout gives back what is not read, many keys in one request. What is
// read stays, and what went is claimed again by the next read.
func TestIdleTimeout(t *testing.T) {
	const idle, keys = 10 * time.Second, 60
	onRigOf(t, Config{IdleTimeout: idle}, func(t *testing.T, r *rig) {
		for i := range keys {
			r.get(fmt.Sprint("k", i))
		}
		r.get("hot")
		began, before := time.Now(), r.sent()
		for len(r.claims()) == keys+1 && time.Since(began) < 2*idle {
			time.Sleep(100 * time.Millisecond)
			r.get("hot")
		}
		if d := time.Since(began); d < idle || d > idle*3/2 {
			t.Errorf("given back after %v", d)
		}
		time.Sleep(time.Second)
		if claims := r.claims(); len(claims) != 1 || claims[0] != "hot" {
			t.Errorf("claims of %q, want hot alone", claims)
		}
		if n := r.sent() - before; n > 6 {
			t.Errorf("%d keys were given back in %d requests", keys, n)
		}
		r.wantOwned("hot")
		r.get("k1")
		r.wantOwned("k1")
		time.Sleep(3 * idle)
		if claims := r.claims(); len(claims) != 0 {
			t.Errorf("claims of %q in the end", claims)
		}
	})
}

// What has to go to etcd is no read from memory: it keeps no key.
func TestIdleTimeoutBesideTransactions(t *testing.T) {
	read := clientv3.OpGet("k")
	for name, tt := range map[string]struct {
		cmps []clientv3.Cmp
		then []clientv3.Op
		keep bool
	}{
		"compare and swap":           {[]clientv3.Cmp{clientv3.Compare(clientv3.Version("k"), ">", -1)}, []clientv3.Op{clientv3.OpPut("k", "v")}, false},
		"a read with another's key":  {nil, []clientv3.Op{read, clientv3.OpGet("elsewhere")}, false},
		"a read from memory":         {nil, []clientv3.Op{read}, true},
		"a comparison from memory":   {[]clientv3.Cmp{clientv3.Compare(clientv3.Version("k"), ">", -1)}, nil, true},
		"many keys read from memory": {nil, slices.Repeat([]clientv3.Op{read}, 10), true},
	} {
		t.Run(name, func(t *testing.T) {
			onRigOf(t, Config{IdleTimeout: 4 * time.Second}, func(t *testing.T, r *rig) {
				r.get("k")
				for range 20 {
					time.Sleep(500 * time.Millisecond)
					if _, err := r.kv.Txn(t.Context()).If(tt.cmps...).Then(tt.then...).Commit(); err != nil {
						t.Fatal(err)
					}
				}
				if r.kv.Owned("k") != tt.keep {
					t.Errorf("k is owned after 10 s: %v", r.kv.Owned("k"))
				}
			})
		})
	}
}

// Without the option, nothing is given back.
func TestNoIdleTimeout(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		r.get("k")
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		r.wantOwned("k")
	})
}

// A yield of an idle key that fails is sent again, as any other.
func TestIdleYieldIsSentAgain(t *testing.T) {
	onRigOf(t, Config{IdleTimeout: 10 * time.Second}, func(t *testing.T, r *rig) {
		r.get("k")
		failed := 0
		r.on(memetcd.MethodTxn, func(ctx context.Context, req proto.Message, do next) (proto.Message, error) {
			if names(req, "claims/k") && failed < 3 {
				failed++
				return nil, errors.New("lost")
			}
			return do(ctx)
		})
		time.Sleep(30 * time.Second)
		if claims := r.claims(); len(claims) != 0 || failed != 3 {
			t.Errorf("claims of %q after %d failures", claims, failed)
		}
	})
}
