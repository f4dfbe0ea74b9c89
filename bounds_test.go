package leasing

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// MaxKeys bounds what is owned, here and in etcd. Keys that are read again and
// again are kept.
func TestMaxKeys(t *testing.T) {
	onRigOf(t, Config{MaxKeys: 4}, func(t *testing.T, r *rig) {
		for i := range 20 {
			r.get("hot")
			r.get(fmt.Sprint("cold", i))
		}
		time.Sleep(time.Second)
		synctest.Wait()
		claims := r.claims()
		if len(claims) != 4 || !slices.Contains(claims, "hot") {
			t.Errorf("claims of %q, not of hot and three others", claims)
		}
		r.wantOwned(claims...)
		before := r.sent()
		r.get("hot")
		if n := r.sent() - before; n != 0 {
			t.Errorf("a read of an owned key took %d requests", n)
		}
	})
}
