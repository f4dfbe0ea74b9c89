package leasing

import (
	"errors"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// dataLoop keeps a watch running on the data under a prefix, for writes by programs
// that do not use the protocol. Nothing else rests on it: our own writes and those of
// other leasing clients are known without. It calls begun when the watch runs, and when
// it has failed.
func (s *session) dataLoop(prefix string, begun func()) {
	pace := backoff{first: 20 * time.Millisecond, last: 10 * time.Second}
	next, refused := int64(0), false // the revision to go on from; 0: from now on
	for {
		began := time.Now()
		err := s.watchData(prefix, &next, begun)
		begun()
		if s.ctx.Err() != nil {
			return
		}
		log := s.log.Debug
		if isRefusedWatch(err) && !refused {
			refused, log = true, s.log.Warn
		}
		log("leasing: the watch on data is interrupted, writes by strangers go unnoticed", zap.String("prefix", prefix), zap.Error(err))
		if time.Since(began) > pace.last {
			pace.reset()
		}
		if !sleep(s.ctx, pace.pause()) {
			return
		}
	}
}

// watchData watches data from revision *next on until the watch fails. If it begins
// anew, nothing is known of what was written before, and all keys under the prefix are
// given up.
func (s *session) watchData(prefix string, next *int64, begun func()) error {
	opts := []clientv3.OpOption{clientv3.WithPrefix(), clientv3.WithRev(*next), clientv3.WithCreatedNotify()}
	for resp := range s.watcher.Watch(clientv3.WithRequireLeader(s.ctx), prefix, opts...) {
		if resp.CompactRevision != 0 {
			*next = 0
		}
		if err := resp.Err(); err != nil {
			return err
		}
		if resp.Created && *next == 0 {
			*next = resp.Header.Revision + 1
			s.yield(s.cache.doubt(keyRange{prefix, rangeEnd(prefix)}))
		}
		if resp.Created {
			begun()
		}
		var yields []yield
		for _, ev := range resp.Events {
			*next = ev.Kv.ModRevision + 1
			yields = append(yields, s.heardOf(string(ev.Kv.Key), ev.Kv.ModRevision)...)
		}
		s.yield(yields)
	}
	return errors.New("leasing: watch ended")
}

// rangeEnd is the end of the range of all keys with a prefix.
func rangeEnd(prefix string) string {
	if prefix == "" {
		return openEnd
	}
	return clientv3.GetPrefixRangeEnd(prefix)
}

// heardOf takes in that key was written at a revision, by whomever.
func (s *session) heardOf(key string, rev int64) []yield {
	if s.layout.reserved(key) {
		return nil
	}
	return s.cache.heard(key, rev, time.Now())
}
