package leasing_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/etcd-leasing/leasing/internal/memetcd"
)

// Readers in a tight loop do not hold up a writer who asks for their key.
func TestWritersAreNotStarvedByReaders(t *testing.T) {
	onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
		w := c.open("w", time.Minute)
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for i := range 3 {
			p := c.open(fmt.Sprint("r", i), time.Minute)
			for range 2 {
				wg.Go(func() {
					for ctx.Err() == nil {
						p.get("k")
						time.Sleep(trip)
					}
				})
			}
		}
		for i := range 12 {
			if d := took(func() { w.put("k", fmt.Sprint(i)) }); d > 8*trip {
				t.Errorf("write %d took %v", i, d)
			}
			time.Sleep(time.Duration(i*30) * time.Millisecond)
		}
		stop()
		wg.Wait()
	})
}

// The rest of a key doubles as long as it does not pay to own it, and is short
// again when it does.
func TestRestGrowsAndShrinks(t *testing.T) {
	onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
		a, b := c.pair(time.Minute)
		rest := func() time.Duration { // until a owns the key again
			b.put("k", "v")
			return took(func() {
				for !a.serves("k") {
					time.Sleep(10 * time.Millisecond)
				}
			}).Round(50 * time.Millisecond)
		}
		a.own("k")
		for i, d := range []time.Duration{250, 500, 1000, 2000, 4000, 8000, 8000} {
			want(t, fmt.Sprint("rest ", i), rest(), d*time.Millisecond)
		}
		for range 10 {
			a.get("k")
		}
		time.Sleep(16 * time.Second)
		want(t, "rest after reads enough", rest(), 250*time.Millisecond)
		want(t, "rest after a few reads", rest(), 500*time.Millisecond)
	})
}
