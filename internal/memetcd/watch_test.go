package memetcd

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

func TestWatch(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, srv *Server) {
		cli := srv.NewClient("a")
		ctx := t.Context()
		must(cli.Put(ctx, "p/a", "1"))(t) // 2
		must(cli.Put(ctx, "q", "1"))(t)   // 3
		must(cli.Put(ctx, "p/a", "2"))(t) // 4

		key := cli.Watch(ctx, "p/a")
		prefix := cli.Watch(ctx, "p/", clientv3.WithPrefix(), clientv3.WithCreatedNotify())
		old := cli.Watch(ctx, "p/a", clientv3.WithRev(2), clientv3.WithPrevKV())
		later := cli.Watch(ctx, "p/", clientv3.WithPrefix(), clientv3.WithRev(7))
		deletes := cli.Watch(ctx, "p/", clientv3.WithPrefix(), clientv3.WithFilterPut())

		created := <-prefix
		wantEqual(t, "created", created.Created, true)
		wantEqual(t, "revision of creation", created.Header.Revision, 4)
		caughtUp := <-old
		wantEqual(t, "events", len(caughtUp.Events), 2)
		wantEqual(t, "revision after catching up", caughtUp.Header.Revision, 4)
		if caughtUp.Events[0].PrevKv != nil {
			t.Error("a previous value of a creation")
		}
		wantEqual(t, "previous value", string(caughtUp.Events[1].PrevKv.Value), "1")

		// One revision is one message, in the order of the operations.
		must(cli.Txn(ctx).Then(clientv3.OpPut("p/b", "1"), clientv3.OpDelete("p/a"), clientv3.OpPut("p/0", "1")).Commit())(t) // 5
		resp := <-prefix
		wantEqual(t, "events", len(resp.Events), 3)
		wantEqual(t, "revision", resp.Header.Revision, 5)
		var order []string
		for _, ev := range resp.Events {
			order = append(order, string(ev.Kv.Key))
			wantEqual(t, "modification", ev.Kv.ModRevision, 5)
		}
		if !slices.Equal(order, []string{"p/b", "p/a", "p/0"}) {
			t.Errorf("order %v", order)
		}
		wantEqual(t, "one key", fmt.Sprint(events(t, key)), "[DELETE p/a]")
		wantEqual(t, "deletes", fmt.Sprint(events(t, deletes)), "[DELETE p/a]")
		wantEqual(t, "old", string((<-old).Events[0].PrevKv.Value), "2")

		must(cli.Put(ctx, "p/c", "6"))(t)
		wantEqual(t, "a watch on the future is silent", silent(later), true)
		wantEqual(t, "a watch on another key is silent", silent(key), true)
		wantEqual(t, "a filtered watch is silent", silent(deletes), true)
		must(cli.Put(ctx, "p/c", "7"))(t)
		wantEqual(t, "later", fmt.Sprint(events(t, later)), "[PUT p/c=7]")
	})
}

func TestWatchCompacted(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, srv *Server) {
		cli := srv.NewClient("a")
		ctx := t.Context()
		for i := range 5 {
			must(cli.Put(ctx, "k", fmt.Sprint(i)))(t) // 2 to 6
		}
		if err := srv.Compact(4); err != nil {
			t.Fatal(err)
		}
		resp := <-cli.Watch(ctx, "k", clientv3.WithRev(3))
		wantErr(t, resp.Err(), rpctypes.ErrCompacted)
		wantEqual(t, "compacted", resp.CompactRevision, 4)
		wantEqual(t, "canceled", resp.Canceled, true)
		wantEqual(t, "from the compaction on", len(events(t, cli.Watch(ctx, "k", clientv3.WithRev(4)))), 3)
	})
}

// TestWatchResumes: clientv3 takes up a watch again after the connection broke, and misses nothing,
// unless what it missed was compacted.
func TestWatchResumes(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, srv *Server) {
		cli, conn := srv.Client("a")
		other := srv.NewClient("b")
		ctx := t.Context()
		wch := cli.Watch(ctx, "k")
		must(other.Put(ctx, "k", "1"))(t)
		wantEqual(t, "first", fmt.Sprint(events(t, wch)), "[PUT k=1]")
		conn.Cut(Both)
		must(other.Put(ctx, "k", "2"))(t)
		conn.Reset()
		must(other.Put(ctx, "k", "3"))(t)
		time.Sleep(time.Minute)
		wantEqual(t, "silent while cut", silent(wch), true)
		conn.Heal()
		wantEqual(t, "missed", fmt.Sprint(events(t, wch)), "[PUT k=2 PUT k=3]")

		conn.Cut(Both)
		conn.Reset()
		must(other.Put(ctx, "k", "4"))(t)
		if err := srv.Compact(must(other.Put(ctx, "k", "5"))(t).Header.Revision); err != nil {
			t.Fatal(err)
		}
		conn.Heal()
		resp := <-wch
		wantErr(t, resp.Err(), rpctypes.ErrCompacted)
	})
}

func TestWatchProgress(t *testing.T) {
	bubble(t, Options{ProgressInterval: time.Minute}, func(t *testing.T, srv *Server) {
		cli := srv.NewClient("a")
		ctx := t.Context()
		wch := cli.Watch(ctx, "k")
		notified := cli.Watch(ctx, "k", clientv3.WithProgressNotify())
		must(cli.Put(ctx, "other", ""))(t)
		if err := cli.RequestProgress(ctx); err != nil {
			t.Fatal(err)
		}
		for _, ch := range []clientv3.WatchChan{wch, notified} {
			resp := <-ch
			wantEqual(t, "progress", resp.IsProgressNotify(), true)
			wantEqual(t, "revision", resp.Header.Revision, 2)
		}
		start := time.Now()
		resp := <-notified
		wantEqual(t, "progress", resp.IsProgressNotify(), true)
		wantEqual(t, "after", time.Since(start), time.Minute)
		time.Sleep(time.Second)
		must(cli.Put(ctx, "k", ""))(t)
		<-notified // the put, which makes the next notification needless
		start = time.Now()
		<-notified
		wantEqual(t, "after an event", time.Since(start), 119*time.Second)
	})
}

func TestWatchWithoutRights(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, srv *Server) {
		cli, conn := srv.Client("a")
		ctx := t.Context()
		conn.Deny(func(key, end []byte, write bool) bool { return string(key) == "secret" })
		resp := <-cli.Watch(ctx, "secret")
		// clientv3 makes no EtcdError of the reason, with a real server either.
		wantEqual(t, "error", fmt.Sprint(resp.Err()), rpctypes.ErrGRPCPermissionDenied.Error())
		wch := cli.Watch(ctx, "public")
		must(cli.Put(ctx, "public", "v"))(t)
		wantEqual(t, "events", len(events(t, wch)), 1)
	})
}

func TestWatchWithoutLeader(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, srv *Server) {
		cli := srv.NewClient("a")
		ctx := t.Context()
		careful, careless := cli.Watch(clientv3.WithRequireLeader(ctx), "k"), cli.Watch(ctx, "k")
		srv.LoseLeader()
		start := time.Now()
		resp := <-careful
		wantErr(t, resp.Err(), rpctypes.ErrNoLeader)
		wantEqual(t, "after", time.Since(start), 3*time.Second)
		resp = <-cli.Watch(clientv3.WithRequireLeader(ctx), "k")
		wantErr(t, resp.Err(), rpctypes.ErrNoLeader)
		wantEqual(t, "at once", time.Since(start), 3*time.Second)

		srv.ElectLeader()
		must(cli.Put(ctx, "k", "v"))(t)
		wantEqual(t, "events", len(events(t, careless)), 1)

		// A short time without a leader harms no watch.
		careful = cli.Watch(clientv3.WithRequireLeader(ctx), "k")
		srv.Stall(2 * time.Second)
		must(cli.Put(ctx, "k", "w"))(t)
		wantEqual(t, "events", len(events(t, careful)), 1)
	})
}

func TestWatchFragments(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, srv *Server) {
		cli, conn := srv.Client("a")
		ctx := t.Context()
		for range 5 {
			must(cli.Put(ctx, "k", string(make([]byte, 1<<20))))(t)
		}
		st := must(conn.WatchClient().Watch(ctx))(t)
		err := st.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{
			CreateRequest: &pb.WatchCreateRequest{Key: []byte("k"), StartRevision: 2, Fragment: true},
		}})
		wantErr(t, err, nil)
		wantEqual(t, "created", must(st.Recv())(t).Created, true)
		for i := range 5 {
			resp := must(st.Recv())(t)
			wantEqual(t, "events", len(resp.Events), 1)
			wantEqual(t, "more to come", resp.Fragment, i < 4)
		}
		whole := cli.Watch(ctx, "k", clientv3.WithRev(2), clientv3.WithFragment())
		wantEqual(t, "put together", len(events(t, whole)), 5)
	})
}

// TestWatchCatchesUpInBatches: a thousand revisions each.
func TestWatchCatchesUpInBatches(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, srv *Server) {
		cli := srv.NewClient("a")
		ctx := t.Context()
		for range 1500 {
			must(cli.Put(ctx, "k", ""))(t)
		}
		wch := cli.Watch(ctx, "k", clientv3.WithRev(2))
		wantEqual(t, "first batch", len(events(t, wch)), 1000)
		wantEqual(t, "second batch", len(events(t, wch)), 500)
	})
}

func TestWatchCancel(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, srv *Server) {
		cli := srv.NewClient("a")
		ctx, cancel := context.WithCancel(t.Context())
		one, two := cli.Watch(ctx, "k"), cli.Watch(t.Context(), "k")
		cancel()
		_, open := <-one
		wantEqual(t, "open", open, false)
		synctest.Wait()
		wantEqual(t, "watches", len(srv.streams[0].watchers), 1)
		must(cli.Put(t.Context(), "k", ""))(t)
		wantEqual(t, "events", len(events(t, two)), 1)
	})
}
