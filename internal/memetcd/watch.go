package memetcd

import (
	"maps"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"
)

const (
	// maxCatchUp is how many revisions one message to a watch that starts in the past may have.
	maxCatchUp = 1000
	// grpcOverhead is what etcd allows a message beyond the size of a request.
	grpcOverhead = 512 << 10
)

// watchStream is the server's end of one watch stream. The server guards it with its lock.
type watchStream struct {
	srv      *Server
	conn     *Conn
	send     func(*pb.WatchResponse) // never blocks
	watchers map[int64]*watcher
	nextID   int64
	ticker   *time.Timer // of progress notifications
}

// watcher is one watch.
type watcher struct {
	id        int64
	keys      keyRange
	start     int64 // as asked for
	from      int64 // the first revision that it may see
	filters   []pb.WatchCreateRequest_FilterType
	prevKV    bool
	fragment  bool
	progress  bool // it wants notifications of progress
	quiet     bool // nothing was sent since the last tick
	compacted bool // dead, though its id is still taken
}

func (s *Server) newWatchStream(c *Conn, send func(*pb.WatchResponse)) *watchStream {
	ws := &watchStream{srv: s, conn: c, send: send, watchers: make(map[int64]*watcher)}
	s.mu.Lock()
	defer s.mu.Unlock()
	ws.ticker = time.AfterFunc(s.opts.ProgressInterval, ws.tick)
	if s.closed {
		ws.ticker.Stop()
		return ws
	}
	s.streams = append(s.streams, ws)
	return ws
}

// handle does what a message from the client asks for.
func (ws *watchStream) handle(req *pb.WatchRequest) {
	ws.srv.received(MethodWatch)
	ws.srv.mu.Lock()
	defer ws.srv.mu.Unlock()
	switch r := req.RequestUnion.(type) {
	case *pb.WatchRequest_CreateRequest:
		ws.createLocked(r.CreateRequest)
	case *pb.WatchRequest_CancelRequest:
		ws.cancelLocked(r.CancelRequest.WatchId)
	case *pb.WatchRequest_ProgressRequest:
		ws.progressLocked(clientv3.InvalidWatchID, slices.Collect(maps.Values(ws.watchers)))
	}
}

func (ws *watchStream) createLocked(r *pb.WatchCreateRequest) {
	if len(r.Key) == 0 {
		r.Key = []byte{0}
	}
	if reason := ws.refusalLocked(r); reason != "" {
		ws.replyLocked(&pb.WatchResponse{
			WatchId: clientv3.InvalidWatchID, Created: true, Canceled: true, CancelReason: reason,
		})
		return
	}
	w := &watcher{
		id: r.WatchId, keys: requestRange(r.Key, r.RangeEnd), start: r.StartRevision,
		filters: r.Filters, prevKV: r.PrevKv, fragment: r.Fragment, progress: r.ProgressNotify, quiet: true,
	}
	if w.id == clientv3.AutoWatchID {
		for ws.watchers[ws.nextID] != nil {
			ws.nextID++
		}
		w.id = ws.nextID
		ws.nextID++
	}
	ws.watchers[w.id] = w
	ws.replyLocked(&pb.WatchResponse{WatchId: w.id, Created: true})
	ws.catchUpLocked(w)
}

// refusalLocked is why a watch cannot be created, or nothing.
func (ws *watchStream) refusalLocked(r *pb.WatchCreateRequest) string {
	if r.StartRevision < 0 {
		return rpctypes.ErrCompacted.Error()
	}
	if ws.conn.rights().read(r.Key, r.RangeEnd) != nil {
		return rpctypes.ErrGRPCPermissionDenied.Error()
	}
	keys := requestRange(r.Key, r.RangeEnd)
	if !keys.one && !keys.open && keys.key >= keys.end {
		return "mvcc: watcher range is empty"
	}
	if r.WatchId != clientv3.AutoWatchID && ws.watchers[r.WatchId] != nil {
		return "mvcc: duplicate watch ID provided on the WatchStream"
	}
	return ""
}

// catchUpLocked sends what a new watch has missed.
func (ws *watchStream) catchUpLocked(w *watcher) {
	st := ws.srv.store
	w.from = max(w.start, st.rev+1)
	if w.start == 0 || w.start > st.rev {
		return
	}
	if w.start < st.compacted {
		w.compacted = true
		// The revision of this header is 0: etcd's is.
		ws.send(&pb.WatchResponse{
			Header:          &pb.ResponseHeader{ClusterId: ClusterID, MemberId: MemberID, RaftTerm: ws.srv.term},
			WatchId:         w.id,
			Canceled:        true,
			CompactRevision: st.compacted,
		})
		return
	}
	var batch []*mvccpb.Event
	revs := 0
	for _, r := range st.since(w.start) {
		events := w.matching(r.events)
		if len(events) == 0 {
			continue
		}
		if revs == maxCatchUp {
			ws.sendEventsLocked(w, st.rev, batch)
			batch, revs = nil, 0
		}
		batch = append(batch, events...)
		revs++
	}
	ws.sendEventsLocked(w, st.rev, batch)
}

// notifyLocked sends the events of a new revision to those whom they concern.
func (ws *watchStream) notifyLocked(rev int64, events []*mvccpb.Event) {
	for _, id := range slices.Sorted(maps.Keys(ws.watchers)) {
		if w := ws.watchers[id]; !w.compacted && rev >= w.from {
			ws.sendEventsLocked(w, rev, w.matching(events))
		}
	}
}

// matching returns the events on the keys of the watch.
func (w *watcher) matching(events []*mvccpb.Event) []*mvccpb.Event {
	var selected []*mvccpb.Event
	for _, ev := range events {
		if w.keys.contains(string(ev.Kv.Key)) {
			selected = append(selected, ev)
		}
	}
	return selected
}

func (w *watcher) wants(ev *mvccpb.Event) bool {
	return !slices.ContainsFunc(w.filters, func(f pb.WatchCreateRequest_FilterType) bool {
		return f == pb.WatchCreateRequest_NOPUT && ev.Type == mvccpb.Event_PUT ||
			f == pb.WatchCreateRequest_NODELETE && ev.Type == mvccpb.Event_DELETE
	})
}

// sendEventsLocked sends one message with those of the events that pass the filters, if any.
func (ws *watchStream) sendEventsLocked(w *watcher, rev int64, events []*mvccpb.Event) {
	resp := &pb.WatchResponse{Header: &pb.ResponseHeader{Revision: rev}, WatchId: w.id}
	for _, ev := range events {
		if !w.wants(ev) {
			continue
		}
		ev = &mvccpb.Event{Type: ev.Type, Kv: ev.Kv}
		if w.prevKV {
			ev.PrevKv = ws.previousLocked(ev)
		}
		resp.Events = append(resp.Events, ev)
	}
	if len(resp.Events) == 0 {
		return
	}
	w.quiet = false
	ws.srv.fillLocked(resp.Header)
	if !w.fragment {
		ws.send(resp)
		return
	}
	for _, part := range fragments(resp, ws.srv.opts.MaxRequestBytes+grpcOverhead) {
		ws.send(part)
	}
}

// previousLocked is the key as it was before the revision of the event, if that is still known.
func (ws *watchStream) previousLocked(ev *mvccpb.Event) *mvccpb.KeyValue {
	if ev.IsCreate() {
		return nil
	}
	return ws.srv.store.get(string(ev.Kv.Key), ev.Kv.ModRevision-1)
}

// fragments cuts a message into such as are below the limit, with one event at least.
func fragments(resp *pb.WatchResponse, limit int) []*pb.WatchResponse {
	if proto.Size(resp) < limit || len(resp.Events) < 2 {
		return []*pb.WatchResponse{resp}
	}
	var parts []*pb.WatchResponse
	for rest := resp.Events; len(rest) > 0; {
		part := &pb.WatchResponse{Header: resp.Header, WatchId: resp.WatchId, Fragment: true}
		for len(rest) > 0 {
			part.Events = append(part.Events, rest[0])
			if len(part.Events) > 1 && proto.Size(part) >= limit {
				part.Events = part.Events[:len(part.Events)-1]
				break
			}
			rest = rest[1:]
		}
		part.Fragment = len(rest) > 0
		parts = append(parts, part)
	}
	return parts
}

func (ws *watchStream) cancelLocked(id int64) {
	if ws.watchers[id] == nil {
		return
	}
	delete(ws.watchers, id)
	ws.replyLocked(&pb.WatchResponse{WatchId: id, Canceled: true})
}

// progressLocked tells how far the watches are, in the name of id. It says nothing unless all of them
// have begun and live.
func (ws *watchStream) progressLocked(id int64, watchers []*watcher) {
	for _, w := range watchers {
		if w.compacted || ws.srv.store.rev < w.start {
			return
		}
	}
	if len(watchers) > 0 {
		ws.replyLocked(&pb.WatchResponse{WatchId: id})
	}
}

// tick notifies the watches that wanted it of progress, if they heard nothing since the last time.
func (ws *watchStream) tick() {
	ws.srv.mu.Lock()
	defer ws.srv.mu.Unlock()
	if ws.srv.closed || !slices.Contains(ws.srv.streams, ws) {
		return
	}
	for _, id := range slices.Sorted(maps.Keys(ws.watchers)) {
		w := ws.watchers[id]
		if w.progress && w.quiet {
			ws.progressLocked(id, []*watcher{w})
		}
		w.quiet = true
	}
	ws.ticker.Reset(ws.srv.opts.ProgressInterval)
}

// replyLocked sends a message with the current revision.
func (ws *watchStream) replyLocked(resp *pb.WatchResponse) {
	resp.Header = new(pb.ResponseHeader)
	ws.srv.fillLocked(resp.Header)
	ws.send(resp)
}
