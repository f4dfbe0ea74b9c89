package debug

import (
	"fmt"
	"html/template"
	"time"
)

// view is what the page is made of: the report, and what it takes to look at it.
type view struct {
	report
	Style   template.CSS
	Refresh int
	Tiles   []tile
	Tables  []table
	Chart   chart
	Recent  []interval // the latest first
	Bars    []bars
	Tops    []topTable
}

// tile is a figure to be seen at once.
type tile struct{ Name, Figure, Note string }

// table has counters of one kind, which are drawn to one scale.
type table struct {
	Name, Caption string
	Rows          []row
}

type row struct {
	Name, Means string
	Count       uint64
	Share       float64 // of the largest in the table, in percent
}

type topTable struct {
	Name, Caption string
	Keys          []keyCount
}

func newView(r report, refresh int) view {
	return view{
		report: r, Style: style, Refresh: refresh,
		Tiles:  tilesOf(r),
		Tables: []table{readTable(r), handTable(r), claimTable(r.Claims), writeTable(r.Writes)},
		Chart:  chartOf(r.History, r.Time),
		Recent: recent(r.History, r.Time),
		Bars: []bars{
			barsOf("Claim time", "How long reads waited for a claim, which many may share; estimates from the columns", r.ClaimTime),
			barsOf("Takeover wait", "How long writes waited for other owners; estimates from the columns", r.Takeover),
		},
		Tops: []topTable{
			{"Hottest keys", "Read from memory most. Counts are estimates, from one read in 64.", r.Hottest},
			{"Most contended keys", "Asked for by others most. Counts are estimates.", r.Contended},
		},
	}
}

func tilesOf(r report) []tile {
	lately := "no reads lately"
	if in := recent(r.History, r.Time); len(in) > 0 && in[0].HitRatio != nil {
		lately = percent(in[0].HitRatio) + " in the last 5 min"
	}
	deadline := tile{"To the first deadline", "–", "no lease is live"}
	if len(r.Leases) > 0 {
		deadline = tile{deadline.Name, human(&r.Session.Deadline), plural(len(r.Leases), "lease") + ", if it is not renewed"}
	}
	return []tile{
		{"Hit ratio", percent(r.Reads.HitRatio), lately},
		{"Keys owned", count(uint64(r.Owned.Keys)), size(r.Owned.Bytes) + " in memory"},
		deadline,
		{"Latest renewal", human(notZero(r.Session.RoundTrip)), plural(int(r.Session.Restarts), "restart") + " of the watch"},
	}
}

// notZero is nil for what has not been measured yet.
func notZero(f float64) *float64 {
	if f == 0 {
		return nil
	}
	return &f
}

func plural(n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return count(uint64(n)) + " " + noun
}

func readTable(r report) table {
	f := r.Reads.Forwards
	return scaled(table{"Reads", "Reads, and why some were sent to etcd", []row{
		{Name: "From memory", Means: "hits", Count: r.Reads.Hits},
		{Name: "Kind", Means: "ranges, streams, old revisions and the like, which are always sent", Count: f.Kind},
		{Name: "Foreign", Means: "somebody else owns the key", Count: f.Foreign},
		{Name: "Resting", Means: "the key was given back, or refused, a short time ago", Count: f.Resting},
		{Name: "Writing", Means: "a write of ours to the key is under way", Count: f.Writing},
		{Name: "No session", Means: "nothing could be claimed", Count: f.NoSession},
		{Name: "Seldom", Means: "not read often enough to be claimed", Count: f.Seldom},
		{Name: "Claim", Means: "the claim came to nothing, or its reply could not be shared", Count: f.Claim},
	}})
}

func claimTable(c claims) table {
	return scaled(table{"Claims", "Claims, by outcome", []row{
		{Name: "Made", Means: "the key was ours", Count: c.Made},
		{Name: "Foreign", Means: "somebody else has the key", Count: c.Foreign},
		{Name: "Refused", Means: "the key carries a lease of its own, or etcd gave an error", Count: c.Refused},
		{Name: "Dropped", Means: "not sent, as nothing was claimed at the time", Count: c.Dropped},
		{Name: "Unknown", Means: "it is not known whether it was made, so it is deleted", Count: c.Unknown},
	}})
}

func writeTable(w writes) table {
	return scaled(table{"Writes", "Writes", []row{
		{Name: "Applied", Means: "puts, deletions and writing transactions", Count: w.Applied},
		{Name: "Takeovers", Means: "those of them that had to wait for another owner", Count: w.Takeovers},
		{Name: "Gave up", Means: "writes that ended with an error after they had to wait for another owner", Count: w.GaveUp},
		{Name: "Unknown outcomes", Means: "it is not known whether they were applied", Count: w.UnknownOutcomes},
	}})
}

func handTable(r report) table {
	h := r.Hands
	return scaled(table{"Changes of hands", "Keys that came and went", []row{
		{Name: "Revokes sent", Means: "keys that others were asked for", Count: h.RevokesSent},
		{Name: "Revokes answered", Means: "keys of ours that others asked for", Count: h.RevokesAnswered},
		{Name: "Yields", Means: "claims of ours that were given back, confirmed", Count: h.Yields},
		{Name: "Evictions", Means: "too many keys, or too large", Count: h.Evictions},
		{Name: "Idle", Means: "nobody read the key", Count: h.Idle},
		{Name: "Lost", Means: "somebody deleted the claim, or its lease was over or given up", Count: h.Lost},
		{Name: "Strangers", Means: "a stranger wrote the key while it was owned", Count: h.Strangers},
		{Name: "Events lost", Means: "the observer of events was not told of them", Count: r.EventsLost},
	}})
}

func scaled(t table) table {
	most := uint64(1)
	for _, r := range t.Rows {
		most = max(most, r.Count)
	}
	for i := range t.Rows {
		t.Rows[i].Share = 100 * float64(t.Rows[i].Count) / float64(most)
	}
	return t
}

const recentSpan = 5 * time.Minute

// recent joins the intervals of every five minutes before now.
func recent(ins []interval, now time.Time) []interval {
	var out []interval
	for end := len(ins); end > 0; {
		span, begin := now.Sub(ins[end-1].To)/recentSpan, end-1
		for begin > 0 && now.Sub(ins[begin-1].To)/recentSpan == span {
			begin--
		}
		out = append(out, join(ins[begin:end]))
		end = begin
	}
	return out
}

// words are the functions of the template.
func words() template.FuncMap {
	return template.FuncMap{
		"count": func(n any) string {
			switch n := n.(type) {
			case int:
				return count(uint64(n))
			case uint64:
				return count(n)
			}
			panic(fmt.Sprintf("debug: the page counts %T", n))
		},
		"percent": percent,
		"human":   human,
		"key":     shown,
		"clock":   func(t time.Time) string { return t.UTC().Format("15:04:05") },
		"stamp":   func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
		"day":     func(t time.Time) string { return t.UTC().Format("2 January 2006, 15:04:05 UTC") },
		"span":    func(a, b time.Time) string { s := b.Sub(a).Seconds(); return human(&s) },
		"minutes": func(d time.Duration) string { return fmt.Sprintf("%.0f min", d.Minutes()) },
		"secs":    func(s float64) string { return human(&s) },
	}
}
