package main

import (
	"context"
	"fmt"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// tally counts what is right. It remembers the first that is not.
type tally struct {
	e         *env
	things    string
	right, of int
	wrong     string
}

func (e *env) tally(things string) *tally { return &tally{e: e, things: things} }

// check counts one thing.
func (t *tally) check(ok bool, format string, args ...any) {
	t.of++
	if ok {
		t.right++
	} else if t.wrong == "" {
		t.wrong = fmt.Sprintf(format, args...)
	}
	t.e.show("%d of %d %s", t.right, t.of, t.things)
}

// done fails unless all were right.
func (t *tally) done() {
	t.e.expect(t.right == t.of, "%s", t.wrong)
	t.e.expect(t.of > 0, "nothing was checked")
}

// condition is what a key can be to a party.
type condition struct {
	owner   string
	present bool
}

const (
	owned     = "owned"
	foreign   = "foreign"
	unclaimed = "unclaimed"
)

func conditions() (all []condition) {
	for _, owner := range []string{owned, foreign, unclaimed} {
		all = append(all, condition{owner, true}, condition{owner, false})
	}
	return all
}

func (c condition) String() string {
	if c.present {
		return c.owner + "-present"
	}
	return c.owner + "-absent"
}

// pair is two parties, and the plain client beside them.
type pair struct {
	*env
	a, b *party
}

func (e *env) pair() *pair { return &pair{e, e.party(), e.party()} }

// bring brings a key that nobody has used into a condition, seen from a. If it
// is present it is at its second version, with value "1". It is up to the
// contender whether what is read is owned.
func (p *pair) bring(key string, c condition) {
	if c.present {
		p.put(p.plain, key, "0")
		p.put(p.plain, key, "1")
	}
	reader := map[string]*party{owned: p.a, foreign: p.b}[c.owner]
	if reader != nil {
		p.value(reader, key)
		p.value(reader, key)
	}
}

// step is one operation through kv, on keys that begin with base.
type step struct {
	name string
	do   func(ctx context.Context, kv clientv3.KV, base string) (any, error)
}

// asPlain fails unless a and the plain client get the same answers to the same
// steps, each on keys of its own in the same condition: base+"k" is in each
// condition in turn, base+"l" in the one after. What is in etcd then must be
// the same, too, and both parties must see it.
func (e *env) asPlain(steps ...step) {
	p, t := e.pair(), e.tally("answers")
	for i, s := range steps {
		for j, c := range conditions() {
			base := fmt.Sprintf("c/%02d/%v/", i, c)
			twin := "t" + base[1:]
			next := conditions()[(j+1)%len(conditions())]
			p.bring(base+"k", c)
			p.bring(base+"l", next)
			p.bring(twin+"k", condition{unclaimed, c.present})
			p.bring(twin+"l", condition{unclaimed, next.present})
			got := telling{base: base}.told(s.do(e.ctx, p.a, base))
			want := telling{base: twin}.told(s.do(e.ctx, e.plain, twin))
			t.check(got == want, "%s of a key that is %v: %s; the plain client: %s", s.name, c, got, want)
			p.settled(t, fmt.Sprintf("%s of a key that was %v", s.name, c), base, twin)
		}
	}
	t.done()
}

// settled counts whether a and its twin have left the same in etcd, and
// whether both parties see that.
func (p *pair) settled(t *tally, what, base, twin string) {
	list := func(base string) string {
		return telling{base: base}.told(p.plain.Get(p.ctx, base, clientv3.WithPrefix()))
	}
	got, want := list(base), list(twin)
	t.check(got == want, "%s leaves %s; the plain client leaves %s", what, got, want)
	for _, key := range []string{base + "k", base + "l"} {
		p.sees(t, what, p.a, key)
		p.sees(t, what, p.b, key)
	}
}

// sees counts whether a party reads what is in etcd.
func (p *pair) sees(t *tally, what string, who *party, key string, opts ...clientv3.OpOption) {
	want, wantErr := p.plain.Get(p.ctx, key, opts...)
	got, err := who.Get(p.ctx, key, opts...)
	if wantErr != nil || err != nil {
		t.check(err != nil && wantErr != nil && complaint(err) == complaint(wantErr), "%s: read: %v; the plain client: %v", what, err, wantErr)
		return
	}
	with := telling{base: key[:strings.LastIndexByte(key, '/')+1]}
	x, y := with.told(got, nil), with.told(want, nil)
	if x == y {
		x, y = "other fields than the plain client", "the same otherwise"
	}
	t.check(sameBut(got, want), "%s: read: %s; the plain client: %s", what, x, y)
}
