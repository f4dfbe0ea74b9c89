package leasing

import (
	"context"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Uncached returns a view of the KV that answers nothing from memory and claims
// nothing. Its reads, and transactions that write nothing, go to etcd as a plain client
// would send them; its writes are those of the KV: guarded, asking other owners, and
// seen by its readers. It is for requests that etcd itself has to judge, under the
// credentials of somebody else, say, which an interceptor takes from the context. It
// ends with the KV.
func (kv *KV) Uncached() clientv3.KV { return uncached{kv} }

// uncached is a KV without the part that answers from memory.
type uncached struct{ *KV }

func (u uncached) Get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	if err := u.closed(); err != nil {
		return nil, err
	}
	return u.forward(ctx, clientv3.OpGet(key, opts...), forKind)
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
