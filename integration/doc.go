// Package integration tests the leasing KV on real etcd members; see package
// etcdtest for how they are run and broken.
package integration

import _ "github.com/etcd-leasing/leasing"
