package leasing_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/etcd-leasing/leasing/internal/memetcd"
)

// What each operation costs, one after the other, in requests, in revisions
// and in messages one after the other.
func TestCosts(t *testing.T) {
	onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
		a, b := c.pair(time.Minute)
		ctx := t.Context()
		get := func(p *peer, key string, opts ...clientv3.OpOption) func() {
			return func() { _, _ = p.Get(ctx, key, opts...) }
		}
		put := func(p *peer, key string) func() { return func() { _, _ = p.Put(ctx, key, "v") } }
		del := func(p *peer, key string, opts ...clientv3.OpOption) func() {
			return func() { _, _ = p.Delete(ctx, key, opts...) }
		}
		txn := func(p *peer, ops ...clientv3.Op) func() {
			return func() { _, _ = p.Txn(ctx).Then(ops...).Commit() }
		}
		for _, step := range []struct {
			what  string
			who   *peer
			do    func()
			cost  string
			revs  int64
			trips int
		}{
			{"put of a key nobody owns", a, put(a, "k"), "Txn=1", 1, 2},
			{"first read", a, get(a, "k"), "Txn=1", 1, 2},
			{"read of an owned key", a, get(a, "k"), "", 0, 0},
			{"the same, keys only", a, get(a, "k", clientv3.WithKeysOnly()), "", 0, 0},
			{"the same, serializable", a, get(a, "k", clientv3.WithSerializable()), "", 0, 0},
			{"the same, of an old revision", a, get(a, "k", clientv3.WithRev(2)), "Range=1", 0, 2},
			{"put of an owned key", a, put(a, "k"), "Txn=1", 1, 2},
			{"read of an owned key after a put", a, get(a, "k"), "", 0, 0},
			{"first read of a key that does not exist", a, get(a, "none"), "Txn=1", 1, 2},
			{"read of an owned key that does not exist", a, get(a, "none"), "", 0, 0},
			{"transaction that reads owned keys", a, txn(a, clientv3.OpGet("k"), clientv3.OpGet("none")), "", 0, 0},
			{"transaction that writes owned keys", a, txn(a, clientv3.OpPut("k", "w"), clientv3.OpPut("none", "w")), "Txn=1", 1, 2},
			{"reads after it", a, txn(a, clientv3.OpGet("k"), clientv3.OpGet("none")), "", 0, 0},
			{"read of a range", a, get(a, "k", clientv3.WithPrefix()), "Range=1", 0, 2},
			{"serializable first read", a, get(a, "s", clientv3.WithSerializable()), "Range=1", 0, 2},
			{"first read of somebody else's key, of which the watch has told", b, get(b, "k"), "Range=1", 0, 2},
			{"again", b, get(b, "k"), "Range=1", 0, 2},
			{"delete of an owned key", a, del(a, "k"), "Txn=1", 1, 2},
			{"read of an owned key after a delete", a, get(a, "k"), "", 0, 0},
			{"delete of a key nobody owns", b, del(b, "other"), "Txn=1", 0, 2},
			{"delete of a range nobody owns anything in", b, del(b, "x", clientv3.WithRange("z")), "Range=1 Txn=1", 0, 4},
		} {
			before, n := c.srv.Revision(), ""
			d := took(func() { n = step.who.cost(step.do) })
			if n != step.cost || d != time.Duration(step.trips)*trip || c.srv.Revision()-before != step.revs {
				t.Errorf("%s: cost %q, %d revisions, %v; want %q, %d, %v", step.what, n, c.srv.Revision()-before, d,
					step.cost, step.revs, time.Duration(step.trips)*trip)
			}
		}
	})
}

// A put of a key that somebody else owns, as is known: the REVOKE, the owner's
// yield, the write. Both hear of it through watches that run.
func TestPutOfAForeignKeyIsThreeCommits(t *testing.T) {
	onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
		a, b := c.pair(time.Minute)
		a.own("k")
		c.srv.RecordTxns()
		watches := c.srv.Stats().Received[memetcd.MethodWatch]
		var atOwner, atWriter string
		var d time.Duration
		atOwner = a.cost(func() {
			atWriter = b.cost(func() { d = took(func() { b.put("k", "v") }) })
		})
		want(t, "commits", c.commits(), lines(
			"b: put claims/k=REVOKE",
			"a: delete claims/k",
			"b: put k=v"))
		want(t, "the writer's requests", atWriter, "Txn=2")
		want(t, "the owner's requests", atOwner, "Txn=1")
		want(t, "watches made", c.srv.Stats().Received[memetcd.MethodWatch]-watches, 0)
		// To etcd, on to the owner, back, on to the writer, and the write itself.
		want(t, "duration", d, 6*trip)
		want(t, "the owner reads", a.get("k"), "v")
	})
}

// A delete does not revoke in the same commit: etcd takes no transaction with
// a put in any branch while it is out of space. So it costs one more if the claim is
// not known.
func TestDeleteOfAForeignKeyIsFourCommits(t *testing.T) {
	onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
		a, b := c.pair(time.Minute)
		a.put("k", "v")
		b.conn.DelayWatch(50 * time.Millisecond)
		a.own("k")
		c.srv.RecordTxns()
		n := b.cost(func() {
			if resp, err := b.Delete(t.Context(), "k"); err != nil || resp.Deleted != 1 {
				t.Errorf("deleted %v, %v", resp, err)
			}
		})
		want(t, "the writer's requests", n, "Txn=3")
		want(t, "commits", c.commits(), lines(
			"b: get claims/k",
			"b: put claims/k=REVOKE",
			"a: delete claims/k",
			"b: delete k"))
	})
}

// A put of a key that we do not own asks for a claim in its way in the same commit
// as long as it may meet one. When it has not for a while, that is left out, for it
// costs etcd something; then a claim that is not known of costs one commit more.
func TestPutAsksAtOnceWhileItMayMeetAStranger(t *testing.T) {
	onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
		a, b := c.pair(time.Minute)
		free := func() {
			for i := range 100 {
				b.put(fmt.Sprint("free", i), "v")
			}
		}
		a.own("known")
		b.conn.DelayWatch(time.Minute)
		a.own("unknown", "another")
		for _, tt := range []struct {
			key     string
			commits []string
		}{
			{"unknown", []string{"b: get claims/unknown", "b: put claims/unknown=REVOKE", "a: delete claims/unknown", "b: put unknown=v"}},
			{"another", []string{"b: get claims/another, put claims/another=REVOKE", "a: delete claims/another", "b: put another=v"}},
			{"known", []string{"b: put claims/known=REVOKE", "a: delete claims/known", "b: put known=v"}},
		} {
			if tt.key != "another" { // right after the first
				free()
			}
			c.srv.RecordTxns()
			b.put(tt.key, "v")
			want(t, tt.key, c.commits(), lines(tt.commits...))
		}
	})
}

// Claims that are older than a KV are known to it all the same.
func TestClaimsOfOthersAreKnownFromTheStart(t *testing.T) {
	onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
		a := c.open("a", time.Minute)
		a.own("k")
		b := c.open("b", time.Minute)
		want(t, "first read of a key that is claimed", b.cost(func() { b.get("k") }), "Range=1")
		a.Close()
		want(t, "first read after that", b.cost(func() { b.own("k") }), "Txn=1")
	})
}

// The end of a claim overtakes the list of claims that a KV begins with.
func TestClaimGoesWhileOthersAreListed(t *testing.T) {
	onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
		a := c.open("a", time.Minute)
		a.own("k")
		b := c.client("b")
		listed := b.meet(replyHeld, func(call *memetcd.Call) bool { return call.Method == memetcd.MethodRange })
		opened := make(chan struct{})
		go func() {
			defer close(opened)
			b.start(time.Minute)
		}()
		time.Sleep(10 * trip)
		a.Close()
		time.Sleep(10 * trip) // the watch has told
		want(t, "lists", listed.sent.Load(), 1)
		close(listed.release)
		<-opened
		defer b.Close()
		want(t, "first read", b.cost(func() { b.own("k") }), "Txn=1")
	})
}

func TestTransactionOverSeveralOwners(t *testing.T) {
	onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
		a, b := c.pair(time.Minute)
		d := c.open("d", time.Minute)
		a.own("k1")
		b.own("k2")
		d.own("k3")
		b.conn.DelayWatch(trip) // a yields first
		c.srv.RecordTxns()
		_, err := d.Txn(t.Context()).Then(clientv3.OpPut("k1", "v"), clientv3.OpPut("k2", "v"), clientv3.OpPut("k3", "v")).Commit()
		if err != nil {
			t.Fatal(err)
		}
		want(t, "commits", c.commits(), lines(
			"d: put claims/k1=REVOKE, put claims/k2=REVOKE", // its own claim stays
			"a: delete claims/k1",
			"b: delete claims/k2",
			"d: put k1=v, put k2=v, put k3=v, get k3"))
		v, ok := d.local("k3")
		want(t, "the writer's own key", fmt.Sprint(v, " ", ok), "v true")
	})
}

// A REVOKE that is there already is not written again.
func TestWritersShareOneRevoke(t *testing.T) {
	onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
		a, b := c.pair(time.Minute)
		d := c.open("d", time.Minute)
		a.own("k")
		a.conn.DelayWatch(50 * time.Millisecond)
		before := c.srv.Revision()
		together(20, func(i int) {
			time.Sleep(time.Duration(i) * trip)
			[]*peer{b, d}[i%2].put("k", fmt.Sprint(i))
		})
		want(t, "revisions: a REVOKE, a yield and the writes", c.srv.Revision()-before, 22)
	})
}

func TestSimultaneousFirstReadsShareOneClaim(t *testing.T) {
	onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
		a := c.open("a", time.Minute)
		c.root.Put(t.Context(), "k", "v")
		n := a.cost(func() {
			together(200, func(i int) {
				time.Sleep(time.Duration(i%4) * trip / 2) // some while the claim is under way
				if v := a.get("k"); v != "v" {
					t.Errorf("read %q", v)
				}
			})
		})
		want(t, "requests", n, "Txn=1")
	})
}

// A writer that finds a claim of ours under way waits for it; it does not
// revoke ourselves.
func TestWriteWaitsForOurClaimUnderWay(t *testing.T) {
	onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
		a := c.open("a", time.Minute)
		c.srv.RecordTxns()
		go a.get("k")
		synctest.Wait()
		d := took(func() { a.put("k", "v") })
		want(t, "commits", c.commits(), lines("a: get k, put claims/k=", "a: put k=v, get k"))
		want(t, "duration", d, 4*trip)
	})
}

// Claims, revokes and yields of many keys go together: 64 claims or revokes, or a
// hundred yields in each request.
func TestManyKeysAreBatched(t *testing.T) {
	const keys = 500
	onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
		a, b := c.pair(time.Minute)
		key := func(i int) string { return fmt.Sprintf("k%03d", i) }
		n := a.cost(func() {
			together(keys, func(i int) { a.get(key(i)) })
		})
		if n != "Txn=8" && n != "Txn=9" && n != "Txn=10" { // the first ones may go alone
			t.Errorf("claiming %d keys cost %s", keys, n)
		}
		want(t, "claims", len(c.claims()), keys)
		var atOwner, atWriter string
		atOwner = a.cost(func() {
			atWriter = b.cost(func() {
				if _, err := b.Delete(t.Context(), "k", clientv3.WithPrefix()); err != nil {
					t.Error(err)
				}
			})
		})
		want(t, "the writer's requests: lists, revokes, the deletion", atWriter, "Range=2 Txn=9")
		if atOwner != "Txn=5" && atOwner != "Txn=6" && atOwner != "Txn=7" && atOwner != "Txn=8" { // as they are asked for
			t.Errorf("yielding %d keys cost %s", keys, atOwner)
		}
		want(t, "claims", len(c.claims()), 0)
	})
}

// Claims to be deleted of which one is gone already: the others are deleted all the
// same.
func TestYieldsOfWhichOneIsGone(t *testing.T) {
	onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
		a := c.open("a", time.Minute)
		a.own("k1", "k2", "k3")
		slow := c.srv.Revision()
		a.conn.DelayWatch(100 * trip) // the REVOKEs and the end of k2's claim are told together
		var ops []clientv3.Op
		for _, k := range []string{"k1", "k2", "k3"} {
			ops = append(ops, clientv3.OpPut(claimPrefix+k, "REVOKE", clientv3.WithIgnoreLease()))
		}
		if _, err := c.root.Txn(t.Context()).Then(ops...).Commit(); err != nil {
			t.Fatal(err)
		}
		if _, err := c.root.Delete(t.Context(), claimPrefix+"k2"); err != nil {
			t.Fatal(err)
		}
		c.srv.RecordTxns()
		time.Sleep(200 * trip)
		want(t, "claims", len(c.claims()), 0)
		want(t, "commits", c.commits(), lines("a: ", "a: delete claims/k1, delete claims/k3"))
		want(t, "revisions", c.srv.Revision()-slow, 3)
	})
}

// 126 claims of as many owners: each of them yields once.
func TestRangeDeleteOverManyOwners(t *testing.T) {
	const owners = 126
	onCluster(t, memetcd.Options{}, func(t *testing.T, c *cluster) {
		for i := range owners {
			p := c.open(fmt.Sprint("o", i), time.Minute)
			p.put(fmt.Sprintf("k%03d", i), "v")
			p.own(fmt.Sprintf("k%03d", i))
		}
		w := c.open("w", time.Minute)
		c.srv.RecordTxns()
		var n string
		d := took(func() {
			n = w.cost(func() {
				if resp, err := w.Delete(t.Context(), "k", clientv3.WithPrefix()); err != nil || resp.Deleted != owners {
					t.Errorf("deleted %v, %v", resp, err)
				}
			})
		})
		want(t, "the writer's requests", n, "Range=2 Txn=3")
		want(t, "all transactions", len(c.srv.Txns()), 3+owners)
		if d > 14*trip {
			t.Errorf("it took %v", d)
		}
		want(t, "claims", len(c.claims()), 0)
	})
}
