package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// sizes are how much is done in one round.
type sizes struct {
	singles  int           // operations one after the other
	width    int           // connections at the same time
	spell    time.Duration // for so long
	watchers int
	streams  int // that the watchers share
	notices  int // how often all of them are told
}

func fullSizes() sizes {
	return sizes{singles: 1000, width: 64, spell: 2 * time.Second, watchers: 1000, streams: 10, notices: 20}
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
	putP50      = "put of a key that nobody owns, p50"
	putMany     = "put of keys that nobody owns, 64 connections"
	rangeP50    = "get of a range of 10 keys, p50"
	rangeMany   = "get of a range of 10 keys, 64 connections"
	watchersP50 = "1,000 watchers on one key: from a put to the last of them, p50"
)

// measure has one way take its turn.
func measure(ctx context.Context, w way, s sizes, round int, note func(row string, figure float64)) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	var clients []*clientv3.Client
	defer func() {
		for _, cl := range clients {
			cl.Close()
		}
	}()
	for range s.width {
		cl, err := connect(w.endpoint)
		if err != nil {
			return err
		}
		clients = append(clients, cl)
	}
	prefix := fmt.Sprintf("%s-%d/", w.name, round)
	for i := range 10 {
		if _, err := clients[0].Put(ctx, fmt.Sprint(prefix, "range/", i), "0123456789abcdef"); err != nil {
			return err
		}
	}
	hot := prefix + "hot"
	if _, err := clients[0].Put(ctx, hot, "0123456789abcdef"); err != nil {
		return err
	}
	get := func(cl *clientv3.Client, _ string) error { _, err := cl.Get(ctx, hot); return err }
	put := func(cl *clientv3.Client, key string) error {
		_, err := cl.Put(ctx, prefix+key, "0123456789abcdef")
		return err
	}
	ten := func(cl *clientv3.Client, _ string) error {
		_, err := cl.Get(ctx, prefix+"range/", clientv3.WithPrefix())
		return err
	}
	for _, m := range []struct {
		op             func(*clientv3.Client, string) error
		p50, p99, many string
	}{
		{get, cachedP50, cachedP99, cachedMany},
		{put, putP50, "", putMany},
		{ten, rangeP50, "", rangeMany},
	} {
		all, err := latencies(clients[0], s.singles, m.op)
		if err != nil {
			return err
		}
		note(m.p50, percentile(all, 50))
		if m.p99 != "" {
			note(m.p99, percentile(all, 99))
		}
		before := processorTime(w.pid)
		n, rate, err := throughput(clients, s.spell, m.op)
		if err != nil {
			return err
		}
		note(m.many, rate)
		if m.many == cachedMany {
			note(cachedCost, float64(processorTime(w.pid)-before)/float64(n))
		}
	}
	took, err := watching(ctx, clients, s, prefix+"watched")
	note(watchersP50, took)
	return err
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
	for i, cl := range clients { // that all are connected
		if err := op(cl, fmt.Sprint("warm", i)); err != nil {
			return 0, 0, err
		}
	}
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

// watching has many watchers watch one key, and returns how long it takes until the last
// of them is told of a put.
func watching(ctx context.Context, clients []*clientv3.Client, s sizes, key string) (float64, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var told sync.WaitGroup
	for i := range s.watchers {
		events := clients[i%s.streams].Watch(ctx, key, clientv3.WithCreatedNotify())
		if r, ok := <-events; !ok || r.Err() != nil {
			return 0, fmt.Errorf("watcher %d: %w", i, r.Err())
		}
		go func() {
			last := ""
			for r := range events {
				for _, ev := range r.Events {
					if v := string(ev.Kv.Value); v != last { // etcd's proxy writes some things twice
						last = v
						told.Done()
					}
				}
			}
		}()
	}
	var all []float64
	for i := range s.notices {
		told.Add(s.watchers)
		begin := time.Now()
		if _, err := clients[len(clients)-1].Put(ctx, key, fmt.Sprint(i)); err != nil {
			return 0, err
		}
		told.Wait()
		all = append(all, float64(time.Since(begin)))
	}
	return percentile(all, 50), nil
}

// percentile returns the value that p percent of all are not above.
func percentile(all []float64, p float64) float64 {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[int(p/100*float64(len(sorted)-1)+0.5)]
}

// processorTime is how long a process has run, on all cores; 0 where there is no /proc.
func processorTime(pid int) time.Duration {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// Behind the name, which is in brackets, come the state and ten more fields.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	user, _ := strconv.ParseInt(fields[11], 10, 64)
	system, _ := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * (time.Second / 100) // in ticks
}
