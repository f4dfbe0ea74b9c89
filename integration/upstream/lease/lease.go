// Package lease is where etcd's own leasing tests are run: the runner puts
// them here with the -overlay flag of the go command, so that no file of
// theirs is ever in this folder. It bears the name of their package, and
// imports what they import, so that go.mod and go.sum pin it.
package lease

import (
	_ "github.com/google/go-cmp/cmp"
	_ "github.com/stretchr/testify/assert"
	_ "github.com/stretchr/testify/require"
	_ "go.etcd.io/etcd/api/v3/etcdserverpb"
	_ "go.etcd.io/etcd/client/pkg/v3/testutil"
	_ "go.etcd.io/etcd/client/v3/concurrency"
	_ "go.etcd.io/etcd/client/v3/leasing" // for -against
	_ "go.etcd.io/etcd/tests/v3/framework/integration"
	_ "google.golang.org/protobuf/testing/protocmp"

	_ "github.com/etcd-leasing/leasing"
)
