package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sys/unix"
)

// sizes are how much is done in one turn.
type sizes struct {
	singles  int           // operations one after the other
	width    int           // connections at the same time
	spell    time.Duration // for so long
	watchers int
	streams  int // that the watchers share
	notices  int // how often all of them are told
}

func fullSizes() sizes {
	return sizes{singles: 400, width: 64, spell: 400 * time.Millisecond, watchers: 1000, streams: 10, notices: 10}
}

func shortSizes() sizes {
	return sizes{singles: 20, width: 4, spell: 50 * time.Millisecond, watchers: 20, streams: 2, notices: 2}
}

// The rows of the table.
const (
	cachedP50   = "get of a cached key, p50"
	cachedP99   = "get of a cached key, p99"
	cachedMany  = "get of a cached key, 64 connections"
	cachedCost  = "processor time of the server for such a get"
	cachedOwn   = "processor time of the clients for such a get"
	putP50      = "put of a key that nobody owns, p50"
	putMany     = "put of keys that nobody owns, 64 connections"
	rangeP50    = "get of a range of 10 keys, p50"
	rangeMany   = "get of a range of 10 keys, 64 connections"
	watchersP50 = "1,000 watchers on one key: from a put to the last of them, p50"
)

// contender is what takes turns: a way to etcd, the clients that take it, and the keys that
// they use.
type contender struct {
	way
	clients []*clientv3.Client
	prefix  string
	told    *sync.WaitGroup // watchers that a change has still to reach
}

// newContender connects s.width clients, and has them keep watchers.
func newContender(ctx context.Context, w way, s sizes) (c *contender, err error) {
	c = &contender{way: w, prefix: w.name + "/", told: new(sync.WaitGroup)}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	for range s.width {
		cl, err := connect(w.endpoint)
		if err != nil {
			return nil, err
		}
		c.clients = append(c.clients, cl)
	}
	for i := range 10 {
		if err := c.put(ctx, c.clients[0], fmt.Sprint("range/", i)); err != nil {
			return nil, err
		}
	}
	if err := c.put(ctx, c.clients[0], "hot"); err != nil {
		return nil, err
	}
	for i := range s.watchers {
		if err := c.watch(ctx, c.clients[i%s.streams]); err != nil {
			return nil, fmt.Errorf("watcher %d: %w", i, err)
		}
	}
	return c, nil
}

func (c *contender) close() {
	for _, cl := range c.clients {
		cl.Close()
	}
}

func (c *contender) get(ctx context.Context, cl *clientv3.Client, _ string) error {
	_, err := cl.Get(ctx, c.prefix+"hot")
	return err
}

func (c *contender) put(ctx context.Context, cl *clientv3.Client, key string) error {
	_, err := cl.Put(ctx, c.prefix+key, "0123456789abcdef")
	return err
}

func (c *contender) ten(ctx context.Context, cl *clientv3.Client, _ string) error {
	_, err := cl.Get(ctx, c.prefix+"range/", clientv3.WithPrefix())
	return err
}

// watch watches one key, and counts down c.told for each change.
func (c *contender) watch(ctx context.Context, cl *clientv3.Client) error {
	events := cl.Watch(ctx, c.prefix+"watched", clientv3.WithCreatedNotify())
	if r, ok := <-events; !ok || r.Err() != nil {
		return errors.Join(errors.New("the watch has ended"), r.Err())
	}
	go func() {
		last := ""
		for r := range events {
			for _, ev := range r.Events {
				if v := string(ev.Kv.Value); v != last { // etcd's proxy writes some things twice
					last = v
					c.told.Done()
				}
			}
		}
	}()
	return nil
}

// turn is what each does in its turn.
type turn func(ctx context.Context, c *contender, s sizes, round int, note func(row string, figure float64)) error

func turns() []turn {
	return []turn{
		operation((*contender).get, cachedP50, cachedP99, cachedMany, cachedCost, cachedOwn),
		operation((*contender).put, putP50, "", putMany, "", ""),
		operation((*contender).ten, rangeP50, "", rangeMany, "", ""),
		watching,
	}
}

// operation returns the turn for one operation. Rows without a name are left out.
func operation(op func(*contender, context.Context, *clientv3.Client, string) error, p50, p99, many, server, own string) turn {
	return func(ctx context.Context, c *contender, s sizes, round int, note func(string, float64)) error {
		do := func(cl *clientv3.Client, key string) error { return op(c, ctx, cl, fmt.Sprint(round, "/", key)) }
		all, err := latencies(c.clients[0], s.singles, do)
		if err != nil {
			return err
		}
		note(p50, percentile(all, 50))
		note(p99, percentile(all, 99))
		for i, cl := range c.clients { // that all are connected
			if err := do(cl, fmt.Sprint("warm", i)); err != nil {
				return err
			}
		}
		theirsBefore, ownBefore, err := processorTimes(c.pid)
		if err != nil {
			return err
		}
		n, rate, err := throughput(c.clients, s.spell, do)
		if err != nil {
			return err
		}
		theirsAfter, ownAfter, err := processorTimes(c.pid)
		note(many, rate)
		note(server, float64(theirsAfter-theirsBefore)/float64(n))
		note(own, float64(ownAfter-ownBefore)/float64(n))
		return err
	}
}

// watching notes how long it takes until the last watcher is told of a put.
func watching(ctx context.Context, c *contender, s sizes, round int, note func(string, float64)) error {
	var all []float64
	for i := range s.notices {
		c.told.Add(s.watchers)
		begin := time.Now()
		if _, err := c.clients[s.width-1].Put(ctx, c.prefix+"watched", fmt.Sprint(round, "/", i)); err != nil {
			return err
		}
		c.told.Wait()
		all = append(all, float64(time.Since(begin)))
	}
	note(watchersP50, percentile(all, 50))
	return nil
}

// latencies does op n times and returns how long each took, in nanoseconds. The first
// ones, which make connections and claims, are not counted.
func latencies(cl *clientv3.Client, n int, op func(*clientv3.Client, string) error) (all []float64, err error) {
	for i := -20; i < n; i++ {
		begin := time.Now()
		if err := op(cl, fmt.Sprint("single", i)); err != nil {
			return nil, err
		}
		if i >= 0 {
			all = append(all, float64(time.Since(begin)))
		}
	}
	return all, nil
}

// throughput has each client do op again and again for d, and returns how many were done,
// and how many in a second.
func throughput(clients []*clientv3.Client, d time.Duration, op func(*clientv3.Client, string) error) (n int64, rate float64, err error) {
	var total atomic.Int64
	var wg sync.WaitGroup
	errs := make([]error, len(clients))
	begin := time.Now()
	for i, cl := range clients {
		wg.Go(func() {
			n := 0
			for ; time.Since(begin) < d && errs[i] == nil; n++ {
				errs[i] = op(cl, fmt.Sprint("many", i, "/", n))
			}
			total.Add(int64(n))
		})
	}
	wg.Wait()
	took := time.Since(begin)
	for _, err := range errs {
		if err != nil {
			return 0, 0, err
		}
	}
	return total.Load(), float64(total.Load()) / took.Seconds(), nil
}

// percentile returns the value that p percent of all are not above.
func percentile(all []float64, p float64) float64 {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[int(p/100*float64(len(sorted)-1)+0.5)]
}

// processorTimes are how long a process and this one have run, on all cores.
func processorTimes(pid int) (its, own time.Duration, err error) {
	its, err = processorTime(int32(^pid<<3 | 2)) // so Linux numbers the clock of a process
	if err != nil {
		return 0, 0, err
	}
	own, err = processorTime(unix.CLOCK_PROCESS_CPUTIME_ID)
	return its, own, err
}

func processorTime(clock int32) (time.Duration, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(clock, &t); err != nil {
		return 0, fmt.Errorf("the clock of a process: %w", err)
	}
	return time.Duration(t.Nano()), nil
}
