package leasing

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode"

	"github.com/etcd-leasing/leasing/internal/memetcd"
)

// faults are those of the table in docs/operating.md, and how to make them. The KV owns
// k and k2, another one theirs.
var faults = map[string]func(f *faulty){
	"etcd cannot be reached": func(f *faulty) {
		f.conn.Cut(memetcd.Both)
		time.Sleep(2 * rigTTL)
		f.use("k")
		f.conn.Heal()
		time.Sleep(time.Minute)
	},
	"etcd has no leader": func(f *faulty) {
		f.srv.LoseLeader()
		time.Sleep(10 * time.Second)
		f.use("k")
		time.Sleep(2 * rigTTL)
		f.srv.ElectLeader()
		time.Sleep(time.Minute)
	},
	"replies get lost": func(f *faulty) {
		f.conn.Cut(memetcd.Replies)
		f.use("k")
		f.conn.Heal()
		time.Sleep(10 * time.Second)
	},
	"etcd is out of space": func(f *faulty) {
		f.srv.SetNoSpace(true)
		f.use("fresh", "k", "fresher")
	},
	"a KV begins or reconnects without rights on the claims": func(f *faulty) {
		f.conn.Deny(onClaims)
		f.conn.Reset()
		time.Sleep(time.Second)
		f.use("fresh")
	},
	"no right to write claims": func(f *faulty) {
		f.conn.Deny(func(key, end []byte, write bool) bool { return write && onClaims(key, end, write) })
		f.use("fresh")
	},
	"rights on the claims are withdrawn while it runs": func(f *faulty) {
		f.conn.Deny(onClaims)
		time.Sleep(2 * rigTTL)
		f.use("fresh", "fresher")
	},
	"the watch is silent": func(f *faulty) {
		f.conn.DelayWatch(time.Hour)
		time.Sleep(2 * time.Minute)
	},
	"an owner is cut off or was killed": func(f *faulty) {
		f.theirs.Cut(memetcd.Both)
		defer f.theirs.Heal()
		begin := time.Now()
		if _, err := f.kv.Put(f.t.Context(), "theirs", "v"); err != nil {
			f.t.Error(err)
		}
		if d := time.Since(begin); d < rigTTL/2 || d > rigTTL+time.Second {
			f.t.Errorf("the writer waited %v", d)
		}
	},
	"several clients want a key": func(f *faulty) {
		if _, err := f.other.Put(f.t.Context(), "k", "w"); err != nil {
			f.t.Error(err)
		}
		f.use("k")
	},
	"more keys are read than may be owned": func(f *faulty) {
		for i := range 100 {
			f.kv.Get(f.t.Context(), fmt.Sprint("key", i))
		}
	},
	"the observer is slow": func(f *faulty) {
		f.dozing.Store(true)
		for i := range maxEvents + 10 {
			f.kv.Get(f.t.Context(), fmt.Sprint("key", i))
		}
		f.dozing.Store(false)
	},
	"somebody deletes a claim": func(f *faulty) {
		f.srv.NewClient("operator").Delete(f.t.Context(), "claims/k")
	},
	"somebody revokes a lease": func(f *faulty) {
		operator := f.srv.NewClient("operator")
		operator.Revoke(f.t.Context(), f.kv.session.leases[0].id)
		time.Sleep(rigTTL) // until the next renewal
	},
	"a program writes without the protocol": func(f *faulty) {
		f.srv.NewClient("operator").Put(f.t.Context(), "k", "w")
	},
}

// onClaims denies whatever is asked for on claims.
func onClaims(key, _ []byte, _ bool) bool { return strings.HasPrefix(string(key), "claims/") }

// faulty is a rig with another owner and an observer that can be slow.
type faulty struct {
	*rig
	other  *KV
	theirs *memetcd.Conn // of other
	dozing atomic.Bool   // the observer is
}

// use reads and writes keys, as a caller with little time.
func (f *faulty) use(keys ...string) {
	try := func(call func(context.Context)) {
		ctx, cancel := context.WithTimeout(f.t.Context(), 2*time.Second)
		defer cancel()
		call(ctx)
	}
	for _, k := range keys {
		try(func(ctx context.Context) { f.kv.Get(ctx, k) })
		try(func(ctx context.Context) { f.kv.Put(ctx, k, "v") })
	}
}

// What docs/operating.md says of faults is so: of each, the counters that it names grow,
// and what it quotes is logged.
func TestFaultsLookAsDocumented(t *testing.T) {
	doc, err := os.ReadFile("docs/operating.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(doc), "| fault |")
	quoted := regexp.MustCompile("`([^`]+)`")
	told := 0
	for _, row := range strings.Split(table, "\n")[2:] {
		cells := strings.Split(row, " | ")
		if len(cells) < 4 {
			break
		}
		told++
		fault := strings.TrimPrefix(cells[0], "| ")
		t.Run(fault, func(t *testing.T) {
			if faults[fault] == nil {
				t.Fatal("nobody knows how to make this fault")
			}
			grown, logged := suffer(t, faults[fault])
			for _, name := range quoted.FindAllStringSubmatch(cells[1], -1) {
				if !grown[name[1]] {
					t.Errorf("%s does not grow, but %v", name[1], grown)
				}
			}
			for _, said := range quoted.FindAllStringSubmatch(cells[2], -1) {
				if !strings.Contains(logged, said[1]) {
					t.Errorf("%q is not in the log:\n%s", said[1], logged)
				}
			}
			if !strings.Contains(cells[2], "`") && !strings.Contains(cells[2], "as above") && logged != "" {
				t.Errorf("the log says:\n%s", logged)
			}
		})
	}
	if told != len(faults) {
		t.Errorf("%d faults are documented, %d can be made", told, len(faults))
	}
}

// suffer returns which counters grow under a fault, by their names in metrics, and what
// is logged at Info and above.
func suffer(t *testing.T, fault func(*faulty)) (grown map[string]bool, logged string) {
	grown = make(map[string]bool)
	var f faulty
	doze := func(Event) {
		for f.dozing.Load() {
			time.Sleep(time.Millisecond)
		}
	}
	onRigOf(t, Config{MaxKeys: 50, WatchData: []string{""}, OnEvent: doze}, func(t *testing.T, r *rig) {
		f.rig = r
		f.other, f.theirs = r.other("other", 0)
		defer f.other.Close()
		if _, err := f.other.Get(t.Context(), "theirs"); err != nil {
			t.Fatal(err)
		}
		r.get("k")
		r.get("k2")
		time.Sleep(time.Second)
		before, said := counts(r.kv.Stats()), r.logs.Len()
		fault(&f)
		time.Sleep(time.Second)
		for name, n := range counts(r.kv.Stats()) {
			if n > before[name] {
				grown[metricName(name)] = true
			}
		}
		for _, e := range r.logs.All()[said:] {
			logged += e.Message + "\n"
		}
	})
	return grown, logged
}

// metricName is how package metrics calls a counter, without what all have in common.
func metricName(field string) string {
	snake := strings.Builder{}
	for _, c := range field {
		if unicode.IsUpper(c) && !strings.HasSuffix(snake.String(), ".") && snake.Len() > 0 {
			snake.WriteByte('_')
		}
		snake.WriteRune(unicode.ToLower(c))
	}
	name, label, ok := strings.Cut(snake.String(), ".")
	if ok {
		return name + "{" + label + "}"
	}
	return name
}
