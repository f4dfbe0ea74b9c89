package leasing

import (
	"context"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Uncached returns a view of the KV that answers nothing from memory and claims
// nothing. Its reads, and transactions that write nothing, go to etcd as a plain client
// would send them; its writes are those of the KV: guarded, asking other owners, and
// seen by its readers. It is for requests that etcd itself has to judge, under the
// credentials of somebody else, say, which an interceptor takes from the context: nobody
// is asked to give a key back for a write before etcd has judged that, so that who may not
// write takes no key from its owner. It ends with the KV.
func (kv *KV) Uncached() clientv3.KV { return uncached{kv} }

// uncached is a KV without the part that answers from memory.
type uncached struct{ *KV }

func (u uncached) Get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	if err := u.closed(); err != nil {
		return nil, err
	}
	return u.forward(ctx, clientv3.OpGet(key, opts...), forKind)
}

func (u uncached) Put(ctx context.Context, key, val string, opts ...clientv3.OpOption) (*clientv3.PutResponse, error) {
	r, err := u.writeBy(ctx, clientv3.OpPut(key, val, opts...), u.submit)
	return r.Put(), err
}

func (u uncached) Delete(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.DeleteResponse, error) {
	r, err := u.writeBy(ctx, clientv3.OpDelete(key, opts...), u.submit)
	return r.Del(), err
}

func (u uncached) Do(ctx context.Context, op clientv3.Op) (clientv3.OpResponse, error) {
	switch {
	case op.IsGet():
		if err := u.closed(); err != nil {
			return clientv3.OpResponse{}, err
		}
		r, err := u.forward(ctx, op, forKind)
		if err != nil {
			return clientv3.OpResponse{}, err
		}
		return r.OpResponse(), nil
	case op.IsPut(), op.IsDelete():
		return u.writeBy(ctx, op, u.submit)
	case op.IsTxn():
		cmps, then, els := op.Txn()
		r, err := u.submit(ctx, cmps, then, els)
		if err != nil {
			return clientv3.OpResponse{}, err
		}
		return r.OpResponse(), nil
	}
	return u.KV.Do(ctx, op)
}

func (u uncached) Txn(ctx context.Context) clientv3.Txn {
	return &txn{kv: u.KV, ctx: ctx, uncached: true}
}

// submit executes a transaction in etcd, which judges it before anybody is asked.
func (u uncached) submit(ctx context.Context, cmps []clientv3.Cmp, then, els []clientv3.Op) (*clientv3.TxnResponse, error) {
	return u.KV.submit(ctx, cmps, then, els, false)
}
