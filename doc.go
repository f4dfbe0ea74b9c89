// Package leasing is a caching clientv3.KV for etcd.
package leasing

import (
	_ "go.etcd.io/etcd/api/v3/etcdserverpb"
	_ "go.etcd.io/etcd/client/v3"
	_ "go.uber.org/zap"
)
