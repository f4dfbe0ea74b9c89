package leasing

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// script runs a cache through a story, one line a step:
//
//	what words  => what comes of it
//
// Without an arrow, nothing may come of it. After every step the cache is
// checked for consistency. What is used:
//
//	join C k                 a reader wants k; C is the claim under way
//	want k j                 somebody wants to own them; a claim that is begun has the key's name
//	release k j              they are to be given back
//	send C [L]               C is sent, under lease L (L1)
//	granted C @5 v@3         etcd's reply: revision 5, ours; k is v, since revision 3
//	refused C @5 v@3 [k@4 theirs|ours]   refused, perhaps by the claim with grant 4
//	denied C | lost C | unsent C         an error | no reply | never sent
//	facts C                  what the readers who share C's reply are told
//	read k                   what readers are told: value@mod rev, or ? for nothing
//	begin W k j [a,b)        a write W of ours to k and j, and to a range
//	press W k                the same, if it has waited for a claim too long
//	applied W @7 k=v@7 j=!   its reply: k was read back, j was not
//	blocked W @7 k@4 j@-     a guard refused it: the claims that were read
//	uncertain W              no reply
//	unsettled W              nothing was sent after all
//	revoked k@5 ours|theirs  the watch: REVOKE
//	created k@5              the watch: a claim of ours
//	deleted k @9             the watch: DELETE
//	yielded k@5 | found k@? 5   the reply to a yield
//	reconcile @9 k@5,ours j@6,theirs,revoked   a listing of all claims
//	sweep 8s                 the keeper gives up what was not read for so long
//	over L | over *          a lease, or the epoch, is over
//	state k | claims L | wait 2s
//
// A key is value@mod, value@mod+lease, or - if it does not exist; @? is a
// grant that was never told.
type script struct {
	t      *testing.T
	c      *cache
	start  time.Time
	now    time.Time
	leases map[string]*lease
	claims map[string]*claim
	writes map[string]*write
}

func newScript(t *testing.T) *script {
	start := time.Now()
	return &script{
		t: t, c: newCache(defaultMaxKeys), start: start, now: start,
		leases: map[string]*lease{
			"L1": newLease(1, start, 60*time.Second),
			"L2": newLease(2, start, 60*time.Second),
			"S":  newLease(3, start, time.Second), // a short one
		},
		claims: make(map[string]*claim),
		writes: make(map[string]*write),
	}
}

// run plays a story on a new cache.
func run(t *testing.T, story string) *script {
	t.Helper()
	s := newScript(t)
	s.play(story)
	return s
}

func (s *script) play(story string) {
	s.t.Helper()
	for line := range strings.Lines(story) {
		line, _, _ = strings.Cut(line, "#")
		step, want, _ := strings.Cut(line, "=>")
		words := strings.Fields(step)
		if len(words) == 0 {
			continue
		}
		got := s.step(words[0], words[1:])
		if want = strings.Join(strings.Fields(want), " "); got != want {
			s.t.Fatalf("%s\n got %q\nwant %q", strings.Join(words, " "), got, want)
		}
		if bad := inconsistency(s.c); bad != "" {
			s.t.Fatalf("after %s: %s", strings.Join(words, " "), bad)
		}
	}
}

func (s *script) step(verb string, args []string) string {
	s.t.Helper()
	switch verb {
	case "join":
		cl, begun, share := s.c.join(args[1], s.now)
		if cl == nil {
			return "no"
		}
		s.claims[args[0]] = cl
		return pick(begun, "begun", "joined") + pick(share, " sharing", " late")
	case "want":
		return s.want(args)
	case "release":
		r := s.c.release(args)
		words := []string{yields(r.yields)}
		for _, y := range s.c.leaving(r.leaving) {
			words = append(words, "leaving "+y.key)
		}
		for _, cl := range r.claims {
			words = append(words, "after "+cl.key)
		}
		return strings.TrimSpace(strings.Join(words, " "))
	case "send":
		s.c.send([]*claim{s.claims[args[0]]}, s.leases[append(args, "L1")[1]], claimsPerLease)
	case "granted", "refused", "denied", "lost", "unsent":
		return s.settleClaim(verb, s.claims[args[0]], args[1:])
	case "facts":
		return facts(s.claims[args[0]].facts)
	case "read":
		if sn := s.c.lookup(args[0]); sn != nil && sn.lease.live(s.now) {
			return facts(sn)
		}
		return "?"
	case "begin", "press":
		return s.begin(args[0], args[1:], verb == "press")
	case "applied", "blocked", "uncertain", "unsettled":
		return s.settle(verb, s.writes[args[0]], args[1:])
	case "revoked":
		return yields(s.c.revoked(record(args[0]), args[1] == "ours", s.now))
	case "taken":
		s.c.taken(record(args[0]), s.now)
	case "heard":
		return yields(s.c.heard(args[0], revision(args[1]), s.now))
	case "doubt":
		return yields(s.c.doubt(keyRange{args[0], args[1]}))
	case "written":
		s.c.written(args[0], revision(args[1]), s.now)
	case "created":
		return yields(s.c.created(record(args[0])))
	case "deleted":
		return s.lease(s.c.deleted(args[0], revision(args[1])))
	case "yielded":
		var rev int64
		if len(args) > 1 {
			rev = revision(args[1])
		}
		s.c.yielded(yieldOf(args[0]), rev, true)
	case "found":
		return yields(s.c.found(yieldOf(args[0]), number(args[1])))
	case "reconcile":
		return s.reconcile(revision(args[0]), args[1:])
	case "over":
		s.over(args[0])
	case "sweep":
		return s.sweep(args[0])
	case "state":
		return s.state(args[0])
	case "claims":
		return fmt.Sprint(s.leases[args[0]].claims)
	case "wait":
		d, err := time.ParseDuration(args[0])
		if err != nil {
			s.t.Fatal(err)
		}
		s.now = s.now.Add(d)
	default:
		s.t.Fatalf("what is %q?", verb)
	}
	return ""
}

func (s *script) want(keys []string) string {
	w := s.c.want(keys, s.now)
	var words []string
	for _, cl := range w.begun {
		s.claims[cl.key] = cl
		words = append(words, "begun "+cl.key)
	}
	for _, cl := range w.joined {
		words = append(words, "joined "+cl.key)
	}
	for what, keys := range map[string][]string{"owned ": w.owned, "soon ": w.soon, "left ": w.left} {
		for _, k := range keys {
			words = append(words, what+k)
		}
	}
	slices.Sort(words)
	return strings.Join(words, " ")
}

func (s *script) settleClaim(verb string, cl *claim, args []string) string {
	r := claimReply{outcome: refused}
	switch verb {
	case "granted":
		r.outcome, r.hdr, r.kv = applied, header(args[0]), keyValue(args[1])
	case "refused":
		r.hdr, r.kv = header(args[0]), keyValue(args[1])
		if len(args) > 2 {
			other := record(args[2])
			r.other, r.ours = &other, args[3] == "ours"
		}
	case "denied":
		r.denied = true
	case "lost":
		r.outcome = unknown
	}
	out := s.c.settleClaim(cl, r, s.now)
	select {
	case <-cl.done:
	default:
		s.t.Fatal("those who wait for the claim were not woken")
	}
	return yields(out)
}

func (s *script) begin(name string, args []string, impatient bool) string {
	var points []string
	var ranges []keyRange
	for _, a := range args {
		if begin, end, ok := strings.Cut(a, ","); ok {
			ranges = append(ranges, keyRange{strings.Trim(begin, "["), strings.Trim(end, ")")})
		} else {
			points = append(points, a)
		}
	}
	w, busy := s.c.begin(points, ranges, ranges, impatient)
	if busy != nil {
		return "busy " + busy.key
	}
	s.writes[name] = w
	out := make([]string, len(w.points))
	for i, p := range w.points {
		out[i] = fmt.Sprintf("%s@%d", p.entry.key, p.grant) + pick(p.ours, "!", "")
	}
	return strings.Join(out, " ")
}

func (s *script) settle(verb string, w *write, args []string) string {
	st := settlement{outcome: refused}
	switch verb {
	case "applied":
		st.outcome, st.hdr = applied, header(args[0])
		for _, a := range args[1:] {
			_, kv, _ := strings.Cut(a, "=")
			st.read = append(st.read, readBack{done: kv != "!", kv: keyValue(kv)})
		}
	case "blocked":
		st.hdr = header(args[0])
		for _, a := range args[1:] {
			if strings.HasSuffix(a, "@-") {
				st.claims = append(st.claims, nil)
				continue
			}
			r := record(a)
			st.claims = append(st.claims, &r)
		}
	case "uncertain":
		st.outcome = unknown
	}
	return yields(s.c.settle(w, st))
}

func (s *script) reconcile(rev int64, args []string) string {
	var listing []claimRecord
	ours := make(map[claimRecord]bool)
	for _, a := range args {
		words := strings.Split(a, ",")
		r := record(words[0])
		r.revoked = slices.Contains(words, "revoked")
		listing = append(listing, r)
		ours[r] = slices.Contains(words, "ours")
	}
	return yields(s.c.reconcile(listing, rev, func(r claimRecord) bool { return ours[r] }, s.now))
}

// sweep has the keeper look for keys that were not read for so long.
func (s *script) sweep(idle string) string {
	d, err := time.ParseDuration(idle)
	if err != nil {
		s.t.Fatal(err)
	}
	ys, _ := s.c.sweep(s.now, d)
	return yields(ys)
}

func (s *script) over(name string) {
	if name == "*" {
		for _, l := range s.leases {
			l.end()
		}
		s.c.dropLease(nil)
		return
	}
	s.leases[name].end()
	s.c.dropLease(s.leases[name])
}

func (s *script) lease(l *lease) string {
	for name, o := range s.leases {
		if l == o {
			return name
		}
	}
	return ""
}

// state says what the cache knows of a key, apart from its value.
func (s *script) state(key string) string {
	e := s.c.entries.get(key)
	if e == nil {
		return "none"
	}
	var words []string
	switch e.state {
	case idle:
		words = append(words, "idle")
	case claiming:
		words = append(words, "claiming")
	case owned:
		words = append(words, fmt.Sprintf("owned@%d", e.grant))
	case yielding:
		words = append(words, "yielding@"+grantName(e.grant))
	}
	if e.writes > 0 {
		words = append(words, fmt.Sprintf("writes=%d", e.writes))
	}
	if e.pause != nil && e.pause.until.After(s.now) {
		words = append(words, fmt.Sprintf("rests=%v", e.pause.until.Sub(s.now)))
	}
	if e.pause != nil && e.pause.foreign.After(s.now) {
		words = append(words, fmt.Sprintf("foreign=%v", e.pause.foreign.Sub(s.now)))
	}
	return strings.Join(words, " ")
}

func pick[T any](is bool, a, b T) T {
	if is {
		return a
	}
	return b
}

func number(s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		panic(err)
	}
	return n
}

func revision(s string) int64 { return number(strings.TrimPrefix(s, "@")) }

func header(s string) *etcdserverpb.ResponseHeader {
	return &etcdserverpb.ResponseHeader{ClusterId: 1, MemberId: 2, RaftTerm: 3, Revision: revision(s)}
}

// keyValue reads value@mod, value@mod+lease, or "-".
func keyValue(s string) *mvccpb.KeyValue {
	value, rest, ok := strings.Cut(s, "@")
	if !ok {
		return nil
	}
	mod, lease, leased := strings.Cut(rest, "+")
	kv := &mvccpb.KeyValue{Value: []byte(value), CreateRevision: 1, Version: 1, ModRevision: number(mod)}
	if leased {
		kv.Lease = number(lease)
	}
	return kv
}

func grantOf(s string) (key string, grant int64) {
	key, g, _ := strings.Cut(s, "@")
	if g == "?" {
		return key, 0
	}
	return key, number(g)
}

func record(s string) claimRecord {
	key, grant := grantOf(s)
	return claimRecord{key: key, grant: grant, lease: clientv3.LeaseID(1)}
}

func yieldOf(s string) yield {
	key, grant := grantOf(s)
	return yield{key: key, grant: grant}
}

func grantName(grant int64) string { return pick(grant == 0, "?", fmt.Sprint(grant)) }

func yields(ys []yield) string {
	if len(ys) == 0 {
		return ""
	}
	words := make([]string, len(ys))
	for i, y := range ys {
		if words[i] = y.key + "@" + grantName(y.grant); y.grant == 0 && y.lease == nil {
			words[i] += " without a lease to look for"
		}
	}
	slices.Sort(words)
	return "yield " + strings.Join(words, " ")
}

func facts(s *snapshot) string {
	switch {
	case s == nil:
		return "?"
	case !s.present():
		return fmt.Sprintf("- %d", s.rev)
	}
	return fmt.Sprintf("%s@%d %d", s.value, s.mod, s.rev)
}

// inconsistency says what is wrong with the cache whatever has happened; ""
// if nothing is.
func inconsistency(c *cache) string {
	n, aging, owning, underway, claims := 0, 0, 0, 0, make(map[*lease]int)
	bad := ""
	c.entries.each(func(e *entry) {
		n++
		wrong := func(is bool, what string) {
			if is && bad == "" {
				bad = fmt.Sprintf("%q: %s", e.key, what)
			}
		}
		if e.aging {
			aging++
		}
		if e.state == owned {
			owning++
		}
		if e.state == claiming {
			underway++
		}
		if e.lease != nil {
			claims[e.lease]++
		}
		s := e.snap.Load()
		wrong(c.entries.get(e.key) != e, "the index does not find it")
		wrong(e.writes < 0, "a write settled twice")
		wrong(s != nil && e.state != owned, "served though not owned (I1)")
		wrong(s != nil && e.writes > 0, "served though a write is unsettled (I1)")
		wrong(s != nil && s.lease != e.lease, "served under another lease than its claim's (I1)")
		wrong(s == nil && e.state == owned && e.writes == 0, "owned for nothing")
		wrong(e.state == owned && (e.grant == 0 || e.lease == nil), "owned without a grant or a lease")
		wrong(e.state == claiming != (e.claim != nil), "claim and state disagree")
		wrong(e.state == claiming && e.claim.entry != e, "its claim is another key's")
		wrong(e.state == idle && (e.lease != nil || e.grant != 0), "idle, but holds on to something")
		wrong(e.state == idle && e.writes == 0 && !e.aging, "idle for nothing")
	})
	if c.underway != underway {
		bad = fmt.Sprintf("%d claims are under way, counted as %d", underway, c.underway)
	}
	if wrong := clockInconsistency(c, owning); wrong != "" && bad == "" {
		bad = wrong
	}
	for _, e := range c.aging {
		if !e.aging || c.entries.get(e.key) != e {
			bad = fmt.Sprintf("%q ages, but is not there", e.key)
		}
	}
	switch {
	case bad != "":
	case n != c.entries.n:
		bad = fmt.Sprintf("%d entries, counted as %d", n, c.entries.n)
	case aging != len(c.aging):
		bad = fmt.Sprintf("%d entries age, counted as %d", aging, len(c.aging))
	}
	for l, n := range claims {
		if l.claims != n && bad == "" {
			bad = fmt.Sprintf("%d claims hang on lease %d, counted as %d", n, l.id, l.claims)
		}
	}
	return bad
}

func clockInconsistency(c *cache, owning int) (bad string) {
	k, waits, bytes := &c.owning, 0, int64(0)
	belongs := func(e *entry, slot int) {
		if int(e.slot) != slot || e.state != owned || c.entries.get(e.key) != e {
			bad = fmt.Sprintf("%q is on the clock, but does not belong there", e.key)
		}
		if s := e.snap.Load(); s != nil && e.bytes != takes(e.key, s) {
			bad = fmt.Sprintf("%q takes %d bytes, counted as %d", e.key, takes(e.key, s), e.bytes)
		}
		bytes += int64(e.bytes)
	}
	for i, e := range k.ring {
		belongs(e, i+1)
	}
	for i, e := range k.young {
		if e != nil {
			belongs(e, -i-1)
			waits++
		}
		if e != nil && i < k.first {
			bad = fmt.Sprintf("%q has been left behind", e.key)
		}
	}
	if k.len() != owning || waits != k.waits {
		bad = fmt.Sprintf("%d keys are owned, %d are on the clock, and %d of %d wait", owning, k.len(), waits, k.waits)
	}
	if bytes != k.bytes {
		bad = fmt.Sprintf("what is owned takes %d bytes, counted as %d", bytes, k.bytes)
	}
	return bad
}
