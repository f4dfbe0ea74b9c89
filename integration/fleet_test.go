package integration_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	etcdleasing "go.etcd.io/etcd/client/v3/leasing"
	"go.etcd.io/etcd/client/v3/namespace"

	"github.com/etcd-leasing/leasing/integration/etcdtest"
)

// fltTheirs returns a KV of etcd's own package.
func fltTheirs(t *testing.T, cl *clientv3.Client) clientv3.KV {
	t.Helper()
	kv, closeKV, err := etcdleasing.NewKV(cl, fltPrefix, concurrency.WithTTL(5))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(closeKV)
	return kv
}

// A key goes from our owner to a writer of etcd's own package and back,
// with each kind of write.
func TestMixedFleetHandsOver(t *testing.T) {
	etcd := etcdtest.Start(t, etcdtest.QuickTicks())
	plain := etcd.Client(0)
	var sentOurs, sentTheirs etcdtest.Counter
	ours := fltOpen(t, etcd.Client(0, sentOurs.Option()), 5*time.Second)
	theirs := fltTheirs(t, etcd.Client(0, sentTheirs.Option()))
	for _, w := range []struct {
		name  string
		want  string
		write func(ctx context.Context, kv clientv3.KV, key string) error
	}{
		{"put", "2", func(ctx context.Context, kv clientv3.KV, key string) error {
			_, err := kv.Put(ctx, key, "2")
			return err
		}},
		{"deletion", "", func(ctx context.Context, kv clientv3.KV, key string) error {
			_, err := kv.Delete(ctx, key) // theirs may delete twice, and count nothing then
			return err
		}},
		{"deletion of a range", "", func(ctx context.Context, kv clientv3.KV, key string) error {
			_, err := kv.Delete(ctx, key, clientv3.WithPrefix())
			return err
		}},
		{"transaction", "3", func(ctx context.Context, kv clientv3.KV, key string) error {
			resp, err := kv.Txn(ctx).If(clientv3.Compare(clientv3.Value(key), "=", "1")).
				Then(clientv3.OpPut(key, "3"), clientv3.OpGet(key)).
				Else(clientv3.OpGet(key)).Commit()
			if err == nil && !resp.Succeeded {
				err = fmt.Errorf("the comparison fails: %v", resp.Responses)
			}
			return err
		}},
	} {
		for _, d := range []struct {
			name          string
			owner, writer clientv3.KV
			sent          *etcdtest.Counter
		}{
			{"ours to theirs", ours, theirs, &sentOurs},
			{"theirs to ours", theirs, ours, &sentTheirs},
		} {
			t.Run(w.name+" "+d.name, func(t *testing.T) {
				key := w.name + " " + d.name
				fltPut(t, plain, key, "1") // nobody knows the key yet
				fltOwn(t, d.owner, d.sent, key)
				claim := fltClaim(t, plain, key)
				if claim == nil {
					t.Fatal("no claim")
				}
				if err := w.write(fltContext(t), d.writer, key); err != nil {
					t.Fatal(err)
				}
				if c := fltClaim(t, plain, key); c != nil && c.CreateRevision == claim.CreateRevision {
					t.Errorf("the owner's claim is still there: %v", c)
				}
				fltAgree(t, key, w.want, plain, d.writer, d.owner, d.writer, d.owner)
				// And back.
				fltPut(t, d.owner, key, "back")
				fltAgree(t, key, "back", plain, d.owner, d.writer)
			})
		}
	}
}

// Side by side on the same keys, ours stay linearizable, whatever
// theirs do, and in the end all agree.
func TestMixedFleetSideBySide(t *testing.T) {
	t.Parallel()
	etcd := etcdtest.Start(t, etcdtest.QuickTicks())
	plain := etcd.Client(0)
	h := fltRecord(t, plain)
	h.foreign = "theirs"
	ours, theirs := make([]clientv3.KV, 2), make([]clientv3.KV, 2)
	named := make(map[string]clientv3.KV)
	for i := range ours {
		ours[i], theirs[i] = fltOpen(t, etcd.Client(0), 5*time.Second), fltTheirs(t, etcd.Client(0))
		named[fmt.Sprint("ours", i)] = ours[i]
	}
	// From when all are open: on a busy machine that takes seconds.
	ctx, cancel := context.WithTimeout(t.Context(), *fltDuration)
	defer cancel()
	var wg sync.WaitGroup
	for name, kv := range named {
		h.run(ctx, &wg, fltLoad{name: name, kv: kv, readers: 2, writers: 1, timeout: 5 * time.Second})
	}
	for i, kv := range theirs {
		// What theirs read and what they were told of their writes is not judged,
		// and they may write a value twice.
		wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				key := fltKeys[n%3]
				opCtx, cancel := context.WithTimeout(ctx, 5*time.Second)
				val := fmt.Sprintf("theirs%d-%d", i, n)
				switch n % 10 {
				case 0, 3:
					_, _ = kv.Put(opCtx, key, val)
				case 5:
					_, _ = kv.Delete(opCtx, key)
				case 6:
					_, _ = kv.Txn(opCtx).If(clientv3.Compare(clientv3.Version(key), ">", 1)).
						Then(clientv3.OpPut(key, val)).Commit()
				case 7: // to an open end it would pass over the claims of others
					_, _ = kv.Delete(opCtx, "b", clientv3.WithRange("d"))
				case 9:
					_, _ = kv.Txn(opCtx).Then(clientv3.OpPut("a", val), clientv3.OpPut("b", val)).Commit()
				default:
					_, _ = kv.Get(opCtx, key)
				}
				cancel()
				time.Sleep(20 * time.Millisecond)
			}
		})
	}
	wg.Wait()
	for _, key := range fltKeys {
		fltAgree(t, key, fltGet(t, plain, key), append(ours, theirs...)...)
	}
	h.check(plain, named)
}

// Namespaces, authentication and TLS are the client's affair: the KV
// works through each of them and through all.
func TestWrappedClients(t *testing.T) {
	const space = "space/"
	ann := etcdtest.User{Name: "ann", Password: "secret", Rights: []etcdtest.Right{
		etcdtest.May(clientv3.PermissionType(clientv3.PermReadWrite), space),
	}}
	auth := etcdtest.Auth(ann)
	for _, tt := range []struct {
		name  string
		opts  []etcdtest.Option
		space bool
		user  bool
	}{
		{"namespace", nil, true, false},
		{"password", []etcdtest.Option{auth}, false, true},
		{"TLS", []etcdtest.Option{etcdtest.TLS()}, false, false},
		{"all", []etcdtest.Option{auth, etcdtest.TLS()}, true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			etcd := etcdtest.Start(t, append(tt.opts, etcdtest.QuickTicks())...)
			plain := etcd.Client(0) // root, where there is one
			client := func(sent *etcdtest.Counter) *clientv3.Client {
				opts := []etcdtest.ClientOption{sent.Option()}
				if tt.user && tt.space { // ann has no rights elsewhere
					opts = append(opts, etcdtest.As(ann.Name, ann.Password))
				}
				cl := etcd.Client(0, opts...)
				if tt.space {
					cl.KV = namespace.NewKV(cl.KV, space)
					cl.Watcher = namespace.NewWatcher(cl.Watcher, space)
					cl.Lease = namespace.NewLease(cl.Lease, space)
				}
				return cl
			}
			where := "" // the keys really are
			if tt.space {
				where = space
			}
			var sentA, sentB etcdtest.Counter
			a := fltOpen(t, client(&sentA), 2*time.Second)
			b := fltOpen(t, client(&sentB), 2*time.Second)
			if tt.space {
				fltPut(t, plain, "k", "outside")
			}
			n := 0
			for _, d := range []struct {
				owner, writer clientv3.KV
				sent          *etcdtest.Counter
			}{{a, b, &sentA}, {b, a, &sentB}} {
				key := fmt.Sprint("k", n)
				fltPut(t, d.owner, key, "1")
				fltOwn(t, d.owner, d.sent, key)
				if fltGet(t, plain, where+fltPrefix+key) != "" {
					t.Error("the claim was revoked")
				}
				resp, err := plain.Get(fltContext(t), where+fltPrefix+key)
				if err != nil || len(resp.Kvs) != 1 || resp.Kvs[0].Lease == 0 {
					t.Fatalf("the claim is %v, %v", resp, err)
				}
				fltPut(t, d.writer, key, "2")
				fltAgree(t, key, "2", d.owner, d.writer)
				fltAgree(t, where+key, "2", plain)
				// Longer than the TTL: leases are renewed here, too.
				fltOwn(t, d.owner, d.sent, key)
				lease := clientv3.LeaseID(resp.Kvs[0].Lease)
				for end := time.Now().Add(3 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
					fltAgree(t, key, "2", d.owner)
				}
				ttl, err := plain.TimeToLive(fltContext(t), lease)
				if err != nil || ttl.TTL <= 0 {
					t.Errorf("the lease is %v, %v", ttl, err)
				}
				tr, err := d.writer.Txn(fltContext(t)).If(clientv3.Compare(clientv3.Value(key), "=", "2")).
					Then(clientv3.OpPut(key, "3")).Commit()
				if err != nil || !tr.Succeeded {
					t.Errorf("transaction: %v, %v", tr, err)
				}
				fltAgree(t, key, "3", d.owner, d.writer)
				del, err := d.writer.Delete(fltContext(t), "", clientv3.WithFromKey())
				if err != nil || del.Deleted == 0 {
					t.Errorf("deletion of everything: %v, %v", del, err)
				}
				fltAgree(t, key, "", d.owner, d.writer)
				n++
			}
			if tt.space {
				fltAgree(t, "k", "outside", plain)
			}
		})
	}
}
