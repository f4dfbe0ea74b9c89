package main

import (
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// floor is the least that a read from memory can cost: one look-up in a map,
// one check of the clock, and one reply whose every byte the caller may change.
// It owns nothing and knows of no other writer.
type floor struct {
	values   map[string][]byte
	deadline time.Time
}

// floorReply is all of a reply but the bytes of key and value.
type floorReply struct {
	resp   etcdserverpb.RangeResponse
	header etcdserverpb.ResponseHeader
	kv     mvccpb.KeyValue
	kvs    [1]*mvccpb.KeyValue
}

func newFloor(keys []string, size int) *floor {
	f := &floor{make(map[string][]byte, len(keys)), time.Now().Add(time.Hour)}
	for _, k := range keys {
		f.values[k] = make([]byte, size)
	}
	return f
}

// get returns nil if there is no such key.
func (f *floor) get(key string) *etcdserverpb.RangeResponse {
	v, ok := f.values[key]
	if !ok || !time.Now().Before(f.deadline) {
		return nil
	}
	r := new(floorReply)
	text := make([]byte, len(key)+len(v))
	n := copy(text, key)
	copy(text[n:], v)
	r.kv.Key, r.kv.Value = text[:n:n], text[n:]
	r.kv.CreateRevision, r.kv.ModRevision, r.kv.Version = 1, 1, 1
	r.kvs[0] = &r.kv
	r.header.ClusterId, r.header.MemberId, r.header.RaftTerm, r.header.Revision = 1, 1, 1, 1
	r.resp.Header, r.resp.Kvs, r.resp.Count = &r.header, r.kvs[:], 1
	return &r.resp
}
