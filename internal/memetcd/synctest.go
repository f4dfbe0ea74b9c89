package memetcd

import _ "unsafe" // for go:linkname

// clientv3 roots every watch stream in a context whose Done channel is this package-level one. It is
// never closed, but it was made outside of any bubble, so a goroutine that waits for it is not durably
// blocked in the eyes of testing/synctest, and with a single watch open virtual time would stand still.
// A nil channel means the same to the context package ("never done"), and nobody waits for it.
//
//go:linkname valCtxCh go.etcd.io/etcd/client/v3.valCtxCh
var valCtxCh chan struct{}

func init() { valCtxCh = nil }
