package memetcd

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

func TestLeaseExpires(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, srv *Server) {
		var log []string
		srv.OnApply(func(_ context.Context, rev int64, events []*mvccpb.Event) {
			for _, ev := range events {
				log = append(log, ev.Type.String()+" "+string(ev.Kv.Key))
			}
			log = append(log, "|")
		})
		cli := srv.NewClient("a")
		ctx := t.Context()
		lease := must(cli.Grant(ctx, 10))(t)
		wantEqual(t, "TTL", lease.TTL, 10)
		for _, key := range []string{"b", "a", "c", "d", "e"} {
			must(cli.Put(ctx, key, "", clientv3.WithLease(lease.ID)))(t)
		}
		must(cli.Put(ctx, "c", ""))(t) // without the lease
		must(cli.Delete(ctx, "d"))(t)
		must(cli.Put(ctx, "e", "", clientv3.WithIgnoreLease()))(t)
		time.Sleep(10*time.Second - time.Nanosecond)
		ttl := must(cli.TimeToLive(ctx, lease.ID, clientv3.WithAttachedKeys()))(t)
		wantEqual(t, "seconds left", ttl.TTL, 0)
		wantEqual(t, "keys", len(ttl.Keys), 3)
		log = nil
		before := srv.Revision()
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		wantEqual(t, "revisions", srv.Revision()-before, 1)
		wantEqual(t, "events", strings.Join(log, " "), "DELETE a DELETE b DELETE e |")
		wantEqual(t, "c", value(t, cli, "c"), "")

		wantEqual(t, "seconds left", must(cli.TimeToLive(ctx, lease.ID))(t).TTL, -1)
		_, err := cli.KeepAliveOnce(ctx, lease.ID)
		wantErr(t, err, rpctypes.ErrLeaseNotFound)
		_, err = cli.Revoke(ctx, lease.ID)
		wantErr(t, err, rpctypes.ErrLeaseNotFound)
		_, err = cli.Put(ctx, "k", "", clientv3.WithLease(lease.ID))
		wantErr(t, err, rpctypes.ErrLeaseNotFound)
	})
}

// TestLeasesExpireInTurn: each in a revision of its own, whenever they were granted or renewed.
func TestLeasesExpireInTurn(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, srv *Server) {
		cli := srv.NewClient("a")
		ctx := t.Context()
		start := time.Now()
		var ends []time.Duration
		srv.OnApply(func(_ context.Context, _ int64, events []*mvccpb.Event) {
			if events[0].Type == mvccpb.Event_DELETE {
				ends = append(ends, time.Since(start))
			}
		})
		var ids []clientv3.LeaseID
		for i, ttl := range []int64{9, 3, 6, 6} {
			id := must(cli.Grant(ctx, ttl))(t).ID
			ids = append(ids, id)
			must(cli.Put(ctx, string(rune('a'+i)), "", clientv3.WithLease(id)))(t)
		}
		time.Sleep(2 * time.Second)
		must(cli.KeepAliveOnce(ctx, ids[1]))(t)
		wantEqual(t, "next to end", must(cli.Leases(ctx))(t).Leases[0].ID, ids[1])
		time.Sleep(time.Minute)
		synctest.Wait()
		if want := []time.Duration{5 * time.Second, 6 * time.Second, 6 * time.Second, 9 * time.Second}; !slices.Equal(ends, want) {
			t.Errorf("leases ended after %v, want %v", ends, want)
		}
		wantEqual(t, "leases left", len(must(cli.Leases(ctx))(t).Leases), 0)
	})
}

func TestLeaseKeepAlive(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, srv *Server) {
		cli := srv.NewClient("a")
		ctx := t.Context()
		lease := must(cli.Grant(ctx, 6))(t).ID
		must(cli.Put(ctx, "k", "v", clientv3.WithLease(lease)))(t)
		alive := must(cli.KeepAlive(ctx, lease))(t)
		for range 5 {
			resp := <-alive
			wantEqual(t, "TTL", resp.TTL, 6)
			wantEqual(t, "revision", resp.Revision, 2)
		}
		go func() {
			for range alive {
			}
		}()
		time.Sleep(time.Hour)
		wantEqual(t, "k", value(t, cli, "k"), "v")
		must(cli.Revoke(ctx, lease))(t)
		wantEqual(t, "k", value(t, cli, "k"), "-")
	})
}

func TestClockRate(t *testing.T) {
	bubble(t, Options{ClockRate: 1.25}, func(t *testing.T, srv *Server) {
		cli := srv.NewClient("a")
		ctx := t.Context()
		lease := must(cli.Grant(ctx, 10))(t).ID
		time.Sleep(4 * time.Second)
		wantEqual(t, "seconds left", must(cli.TimeToLive(ctx, lease))(t).TTL, 5)
		time.Sleep(4*time.Second - time.Nanosecond)
		must(cli.KeepAliveOnce(ctx, lease))(t)
		time.Sleep(8 * time.Second)
		_, err := cli.KeepAliveOnce(ctx, lease)
		wantErr(t, err, rpctypes.ErrLeaseNotFound)
	})
}

func TestGrant(t *testing.T) {
	tests := []struct {
		minTTL, id, ttl int64
		want            int64
		err             error
	}{
		{0, 0, 0, 1, nil},
		{0, 0, -7, 1, nil},
		{0, 0, 1, 1, nil},
		{5, 0, 1, 5, nil},
		{5, 0, 6, 6, nil},
		{0, 42, 6, 6, nil},
		{0, 7, 6, 0, rpctypes.ErrGRPCLeaseExist},
		{0, 0, maxTTL, maxTTL, nil},
		{0, 0, maxTTL + 1, 0, rpctypes.ErrGRPCLeaseTTLTooLarge},
	}
	for _, tt := range tests {
		srv := New(Options{MinTTL: tt.minTTL, ClockRate: 0.5})
		_, conn := srv.Client("a")
		must(conn.LeaseClient().LeaseGrant(t.Context(), &pb.LeaseGrantRequest{ID: 7, TTL: 60}))(t)
		resp, err := conn.LeaseClient().LeaseGrant(t.Context(), &pb.LeaseGrantRequest{ID: tt.id, TTL: tt.ttl})
		if !errors.Is(err, tt.err) || resp.GetTTL() != tt.want {
			t.Errorf("%+v: %v, %v", tt, resp, err)
		}
		if err == nil && (resp.ID == 0 || tt.id != 0 && resp.ID != tt.id) {
			t.Errorf("%+v: lease %d", tt, resp.ID)
		}
		srv.Close()
	}
}

// TestElection: without a leader nothing ends and nothing is applied; the new one starts every lease
// afresh and does what has waited, in order.
func TestElection(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, srv *Server) {
		cli := srv.NewClient("a")
		ctx := t.Context()
		lease := must(cli.Grant(ctx, 5))(t).ID
		must(cli.Put(ctx, "k", "v", clientv3.WithLease(lease)))(t)
		time.Sleep(4 * time.Second)
		srv.Stall(6 * time.Second)

		// Abandoned, but done later. A second later, and another write comes after it.
		_, err := cli.Put(within(t, time.Second), "order", "first")
		wantErr(t, err, context.DeadlineExceeded)
		_, err = cli.Get(within(t, time.Second), "k")
		wantErr(t, err, context.DeadlineExceeded)
		wantEqual(t, "serializable", len(must(cli.Get(ctx, "k", clientv3.WithSerializable()))(t).Kvs), 1)
		_, err = cli.Get(clientv3.WithRequireLeader(ctx), "k", clientv3.WithSerializable())
		wantErr(t, err, rpctypes.ErrNoLeader)
		resp := must(cli.Txn(ctx).If(clientv3.Compare(clientv3.Version("k"), "=", 1)).Commit())(t)
		wantEqual(t, "transaction without ranges", resp.Succeeded, true)
		wantEqual(t, "revision", srv.Revision(), 2)

		put := must(cli.Put(ctx, "order", "second", clientv3.WithPrevKV()))(t)
		wantEqual(t, "previous", string(put.PrevKv.Value), "first")
		wantEqual(t, "term", put.Header.RaftTerm, 3)
		wantEqual(t, "reads done", srv.Stats().Applied[MethodRange], 1)

		time.Sleep(5*time.Second - time.Nanosecond)
		wantEqual(t, "k", value(t, cli, "k"), "v")
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		wantEqual(t, "k", value(t, cli, "k"), "-")
	})
}

func TestElectionTimeouts(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, srv *Server) {
		cli := srv.NewClient("a")
		ctx := t.Context()
		lease := must(cli.Grant(ctx, 60))(t).ID
		srv.LoseLeader()
		start := time.Now()
		_, err := cli.Put(ctx, "k", "v")
		wantErr(t, err, rpctypes.ErrTimeoutDueToLeaderFail)
		wantEqual(t, "waited", time.Since(start), 7*time.Second)
		_, err = cli.Get(ctx, "k")
		wantErr(t, err, rpctypes.ErrTimeout)
		_, err = cli.TimeToLive(ctx, lease)
		wantErr(t, err, rpctypes.ErrNoLeader)
		srv.ElectLeader()
		wantEqual(t, "k", value(t, cli, "k"), "v")
	})
}

// TestRetry: with Options.Retry the client itself repeats what may be repeated.
func TestRetry(t *testing.T) {
	bubble(t, Options{Retry: true}, func(t *testing.T, srv *Server) {
		cli, conn := srv.Client("a")
		ctx := t.Context()
		srv.Stall(10 * time.Second)
		wantEqual(t, "k", value(t, cli, "k"), "-")
		wantEqual(t, "attempts", conn.Sent()[MethodRange], 2)
		srv.Stall(10 * time.Second)
		_, err := cli.Put(ctx, "k", "v")
		wantErr(t, err, rpctypes.ErrTimeoutDueToLeaderFail)
		srv.LoseLeader()
		start := time.Now()
		_, err = cli.Get(within(t, 100*time.Second), "k")
		wantErr(t, err, context.DeadlineExceeded)
		wantEqual(t, "waited", time.Since(start), 100*time.Second)
	})
}
