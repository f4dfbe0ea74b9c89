package leasing

import (
	"fmt"
	"runtime"
	"testing"
	"time"
)

func TestMissesWithinTheWindow(t *testing.T) {
	start := time.Now()
	for _, tc := range []struct {
		reads string // of the one key, at so many seconds
		at    []float64
		want  bool // the last one is enough
	}{
		{"at once", []float64{0, 0, 0}, true},
		{"too few", []float64{0, 0}, false},
		{"in one generation", []float64{0, 4, 9.9}, true},
		{"in two", []float64{0, 9.9, 19.9}, true},
		{"in three", []float64{0, 9.9, 20}, false},
		{"the first is as old as can be", []float64{0, 10, 19.9}, true},
		{"10 s is always within the window", []float64{0, 15, 20, 25}, true},
		{"20 s never is", []float64{0, 20, 25}, false},
		{"nothing is read for long", []float64{0, 0, 100, 100}, false},
		{"and again", []float64{0, 0, 100, 100, 100}, true},
	} {
		m, enough := newMisses(3), false
		m.enough("other", start)
		for _, s := range tc.at {
			enough = m.enough("k", start.Add(time.Duration(s*float64(time.Second))))
		}
		if enough != tc.want {
			t.Errorf("%s: enough is %v", tc.reads, enough)
		}
	}
}

// A read counts for longer than missWindow and at most twice as long, whenever it
// comes and whatever else is read.
func TestMissesCountForTheWindow(t *testing.T) {
	start := time.Now()
	at := func(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }
	for first := 0; first < 25_000; first += 700 {
		for second := first; second < first+25_000; second += 300 {
			m := newMisses(2)
			for ms := 0; ms < first; ms += 1100 {
				m.enough("other", at(ms))
			}
			m.enough("k", at(first))
			for ms := first; ms < second; ms += 1300 {
				m.enough("other", at(ms))
			}
			age, enough := at(second).Sub(at(first)), m.enough("k", at(second))
			if age <= missWindow && !enough || age >= 2*missWindow && enough {
				t.Fatalf("read at %d ms, and again at %d ms: %v", first, second, enough)
			}
		}
	}
}

func TestMissesAreBounded(t *testing.T) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	m, now := newMisses(2), time.Now()
	m.enough("k", now)
	for i := range maxMisses {
		m.enough(fmt.Sprint(i), now)
	}
	if !m.enough("k", now) {
		t.Error("forgotten although no more than maxMisses others were read")
	}
	for i := range 3 * maxMisses {
		m.enough(fmt.Sprint("more", i), now)
	}
	if m.enough("k", now) {
		t.Error("remembered although that many others were read")
	}
	if n := max(len(m.young), len(m.old)); n > maxMisses {
		t.Errorf("%d keys in a generation", n)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if used := int64(after.HeapAlloc) - int64(before.HeapAlloc); used > 5e6 {
		t.Errorf("%d bytes", used)
	}
	runtime.KeepAlive(m)
	if newMisses(0) != nil || newMisses(1) != nil {
		t.Error("counted although the first read is enough")
	}
}
