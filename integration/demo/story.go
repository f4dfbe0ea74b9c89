package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-leasing/leasing"
	"github.com/etcd-leasing/leasing/integration/etcdtest"
)

// story is where its steps meet. Each step leaves A as the owner of the key,
// but for the last.
type story struct {
	etcd  *etcdtest.Cluster
	plain *clientv3.Client
	a, b  actor
}

func (s *story) tell(ctx context.Context) error {
	for i, step := range []struct {
		title string
		tell  func(context.Context) error
	}{
		{"The first read claims", s.claim},
		{"The owner reads from memory", s.own},
		{"Another client's put takes the key over: revoke, yield, write", s.takeOver},
		{"With etcd away, the owner goes on until the deadline, and not past it", s.outage},
		{"With etcd back on the same data, all is well again", s.heal},
		{"Close hands over", s.handOver},
	} {
		fmt.Printf("\n%d. %s.\n", i+1, step.title)
		if err := step.tell(ctx); err != nil {
			return fmt.Errorf("step %d: %w", i+1, err)
		}
	}
	return nil
}

// close closes both KVs at once: each may take a while if etcd is away.
func (s *story) close() {
	var wg sync.WaitGroup
	for _, a := range []*actor{&s.a, &s.b} {
		if a.kv != nil {
			wg.Go(func() { _ = a.kv.Close() })
		}
	}
	wg.Wait()
}

// say prints one line: what is meant, and what it is.
func say(what, format string, args ...any) {
	fmt.Printf("   %-34s %s\n", what, fmt.Sprintf(format, args...))
}

func (s *story) claim(ctx context.Context) error {
	if _, err := s.plain.Put(ctx, key, "hello"); err != nil {
		return err
	}
	claim, err := s.claimOf(ctx)
	if err != nil {
		return err
	}
	if claim != nil {
		return fmt.Errorf("%s is there before anybody read %s", claim.Key, key)
	}
	say("claim in etcd, before", "none")
	s.a.sent.Reset()
	took, err := s.a.reads(ctx, "hello")
	if err != nil {
		return err
	}
	say("A reads "+key, "%s, %d transaction", short(took), s.a.sent.KV())
	if claim, err = s.claimOf(ctx); err != nil {
		return err
	}
	if claim == nil || len(claim.Value) > 0 || claim.Lease == 0 {
		return fmt.Errorf("after A's read the claim is %v", claim)
	}
	say("claim in etcd, after", "%s, grant %d, on lease %x of A", claim.Key, claim.CreateRevision, claim.Lease)
	return expect("requests of A's first read", s.a.sent.KV(), 1)
}

func (s *story) own(ctx context.Context) error {
	const times = 3000
	measure := func(kv clientv3.KV) (p50, p99 time.Duration, err error) {
		took := make([]time.Duration, times)
		for i := range took {
			if took[i], err = reads(ctx, kv, "hello"); err != nil {
				return 0, 0, err
			}
		}
		slices.Sort(took)
		return took[times/2], took[times*99/100], nil
	}
	plain50, plain99, err := measure(s.plain)
	if err != nil {
		return err
	}
	s.a.sent.Reset()
	own50, own99, err := measure(s.a.kv)
	if err != nil {
		return err
	}
	say(fmt.Sprintf("%d reads each", times), "%10s  %10s  %s", "p50", "p99", "requests")
	say("plain client", "%10s  %10s  %8d", short(plain50), short(plain99), times)
	say("A's KV", "%10s  %10s  %8d", short(own50), short(own99), s.a.sent.KV())
	say("quicker by a factor of", "%10.0f  %10.0f", float64(plain50)/float64(own50), float64(plain99)/float64(own99))
	if own50 > plain50/4 {
		return fmt.Errorf("reads from memory take %v, reads from etcd %v", own50, plain50)
	}
	return expect("requests of the owner", s.a.sent.KV(), 0)
}

func (s *story) takeOver(ctx context.Context) error {
	before, err := s.claimOf(ctx)
	if err != nil || before == nil {
		return errors.Join(err, errors.New("the key is not owned by A"))
	}
	s.a.sent.Reset()
	s.b.sent.Reset()
	took, err := s.b.puts(ctx, "hello from B")
	if err != nil {
		return err
	}
	say("B puts "+key, "%s, %d transactions of B, %d of A", short(took), s.b.sent.KV(), s.a.sent.KV())
	claim, err := s.claimOf(ctx)
	if err != nil {
		return err
	}
	if claim != nil && claim.CreateRevision == before.CreateRevision {
		return fmt.Errorf("grant %d of A has outlived B's put", before.CreateRevision)
	}
	say("A's grant", "yielded")
	took, err = s.a.reads(ctx, "hello from B")
	if err != nil {
		return err
	}
	say("A's next read", "%s, sees what B wrote", short(took))
	return nil
}

func (s *story) outage(ctx context.Context) error {
	rested, err := s.becomesOwner(ctx, "hello from B")
	if err != nil {
		return err
	}
	say("A owns the key again after", "%s of rest", short(rested))

	s.etcd.Stop(0)
	away := time.Now()
	renewed := s.a.sent.Last("LeaseGrant", "LeaseKeepAlive")
	say("etcd stops", "%s after A's last renewal", short(away.Sub(renewed)))
	n, last, after := 0, time.Time{}, error(nil)
	for after == nil && ctx.Err() == nil {
		if _, after = s.a.tries(ctx, "hello from B"); after == nil {
			n, last = n+1, time.Now()
			pause(ctx, time.Millisecond)
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if n == 0 {
		return fmt.Errorf("with etcd away, the first read failed: %w", after)
	}
	say("A reads from memory", "%d times, for %s", n, short(last.Sub(away)))
	say("A's last read from memory", "%s after its last renewal; the TTL is %s", short(last.Sub(renewed)), short(ttl))
	if d := last.Sub(renewed); d < ttl/2 || d >= ttl {
		return fmt.Errorf("reads of A from memory went on until %v after its last renewal", d)
	}
	for begin := time.Now(); time.Since(begin) < time.Second && ctx.Err() == nil; {
		if _, err := s.a.tries(ctx, ""); err == nil {
			return errors.New("a read of A was served from memory after the deadline")
		}
	}
	say("every later read", "%v", after)
	return nil
}

func (s *story) heal(ctx context.Context) error {
	begin := time.Now()
	if err := s.etcd.TryRestart(0); err != nil {
		return err
	}
	say("etcd is back after", "%s", short(time.Since(begin)))
	took, err := s.a.reads(ctx, "hello from B")
	if err != nil {
		return err
	}
	say("A reads "+key, "%s", short(took))
	if took, err = s.b.puts(ctx, "hello again"); err != nil {
		return err
	}
	say("B puts "+key, "%s", short(took))
	if took, err = s.becomesOwner(ctx, "hello again"); err != nil {
		return err
	}
	say("A sees that, and owns the key after", "%s", short(took))
	return nil
}

func (s *story) handOver(ctx context.Context) error {
	begin := time.Now()
	if err := s.a.kv.Close(); err != nil {
		return err
	}
	say("A closes", "%s", short(time.Since(begin)))
	if claim, err := s.claimOf(ctx); err != nil || claim != nil {
		return errors.Join(err, fmt.Errorf("after A's Close the claim is %v", claim))
	}
	if _, err := s.a.kv.Get(ctx, key); !errors.Is(err, leasing.ErrClosed) {
		return fmt.Errorf("a read of the closed KV: %v", err)
	}
	time.Sleep(100 * time.Millisecond) // B's watch tells it; until then B might ask for the key first
	s.b.sent.Reset()
	took, err := s.b.puts(ctx, "goodbye")
	if err != nil {
		return err
	}
	say("B puts "+key, "%s, %d transaction", short(took), s.b.sent.KV())
	if err := expect("requests of B's put", s.b.sent.KV(), 1); err != nil {
		return err
	}
	if err := s.b.kv.Close(); err != nil {
		return err
	}
	claims, err := s.plain.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		return err
	}
	leases, err := s.plain.Leases(ctx)
	if err != nil {
		return err
	}
	say("B closes; left in etcd", "%d claims, %d leases", claims.Count, len(leases.Leases))
	return expect("claims and leases that are left", int(claims.Count)+len(leases.Leases), 0)
}

// claimOf returns the claim of the key as etcd has it, or nil.
func (s *story) claimOf(ctx context.Context) (*mvccpb.KeyValue, error) {
	resp, err := s.plain.Get(ctx, prefix+key)
	if err != nil || len(resp.Kvs) == 0 {
		return nil, err
	}
	return resp.Kvs[0], nil
}

// becomesOwner reads until A reads the key from memory, and returns how long
// that took. All reads must return value.
func (s *story) becomesOwner(ctx context.Context, value string) (time.Duration, error) {
	for begin := time.Now(); ; pause(ctx, 2*time.Millisecond) {
		before := s.a.sent.KV()
		if _, err := s.a.reads(ctx, value); err != nil {
			return 0, err
		}
		if s.a.sent.KV() == before {
			return time.Since(begin), nil
		}
		if time.Since(begin) > 10*time.Second {
			return 0, errors.New("the key does not come to be owned by A")
		}
	}
}

func (a *actor) reads(ctx context.Context, value string) (time.Duration, error) {
	return reads(ctx, a.kv, value)
}

// tries reads with little patience.
func (a *actor) tries(ctx context.Context, value string) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	return reads(ctx, a.kv, value)
}

func (a *actor) puts(ctx context.Context, value string) (time.Duration, error) {
	begin := time.Now()
	_, err := a.kv.Put(ctx, key, value)
	return time.Since(begin), err
}

// reads reads the key, which must have that value, unless it is "".
func reads(ctx context.Context, kv clientv3.KV, value string) (time.Duration, error) {
	begin := time.Now()
	resp, err := kv.Get(ctx, key)
	took := time.Since(begin)
	switch {
	case err != nil:
		return 0, err
	case value == "":
	case len(resp.Kvs) != 1 || string(resp.Kvs[0].Value) != value:
		return 0, fmt.Errorf("%s is %v, not %q", key, resp.Kvs, value)
	}
	return took, nil
}

func expect(what string, got, want int) error {
	if got != want {
		return fmt.Errorf("%s: %d, not %d", what, got, want)
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// short prints d with three digits.
func short(d time.Duration) string {
	switch {
	case d >= time.Second:
		return fmt.Sprintf("%.2f s", d.Seconds())
	case d >= time.Millisecond:
		return fmt.Sprintf("%.3g ms", float64(d)/1e6)
	case d >= time.Microsecond:
		return fmt.Sprintf("%.3g µs", float64(d)/1e3)
	}
	return fmt.Sprintf("%d ns", d)
}
