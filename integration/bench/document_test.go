package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/etcd-leasing/leasing/integration/internal/contender"
)

const golden = `
- a machine

2 of 4 targets are met; the others are marked **no**.

## One

| what | plain client | etcd's leasing | this library | target | met |
|---|---|---|---|---|---|
| A \| B (a note) | 600 µs | 1.2 ms (2 ×) | 690 µs (1.15 ×) | ≤ 1.1 × plain | **no**, 1.15 × |
| *floor*: Hit | – | – | – | *200 ns* | |
| Hit | – | – | 210 ns (1.05 ×) | ≤ 1.1 × floor | yes, 1.05 × |

## Two

| what | plain client | etcd's leasing | this library | target | met |
|---|---|---|---|---|---|
| First | 300 µs | – | 630 µs (2.1 ×) | ≤ 1.15 × plain A | yes, 1.05 × |
| Slow | – | 2/s | 1/s (0.5 ×) | ≥ 5 | **no** |
| Missing | – | – | 1/s | ≥ 0.9 × plain | not measured |
| Free | – | – | 2 × |  |  |

## Plots

![A plot](p.svg)
`

// of makes the figures of a row, each of one round; none is 0.
func of(plain, theirs, ours, floor float64) (all [subjects][]float64) {
	for i, f := range []float64{plain, theirs, ours, floor} {
		if f != 0 {
			all[i] = []float64{f}
		}
	}
	return all
}

func TestDocument(t *testing.T) {
	s := suite{experiments: []*experiment{
		{group: "One", rows: []*row{
			{name: "A | B", note: "a note", want: mostOf(1.1, contender.Plain), figures: of(600e3, 1200e3, 690e3, 0)},
			{name: "Hit", want: mostOf(1.1, floorSubject), figures: of(0, 0, 210, 200)},
		}},
		{group: "Two", rows: []*row{
			{name: "First", want: mostOfRow(1.15, "A | B", contender.Plain, "plain A"), figures: of(300e3, 0, 630e3, 0)},
			{name: "Slow", unit: perSecond, want: least(5, "5"), figures: of(0, 2, 1, 0)},
			{name: "Missing", unit: perSecond, want: leastOf(0.9, contender.Plain), figures: of(0, 0, 1, 0)},
		}},
		{group: "Two", rows: []*row{{name: "Free", unit: times, figures: of(0, 0, 2, 1)}}},
	}}
	s.experiments[2].rows[0].figures[floorSubject] = nil
	var got strings.Builder
	document{s.experiments, s.find, []string{"a machine"}, []plotFile{{"p.svg", "A plot"}}}.render(&got)
	if !strings.HasSuffix(got.String(), golden) {
		t.Errorf("got\n%s\nwant at its end\n%s", got.String(), golden)
	}
}

func TestJudgeMedians(t *testing.T) {
	r := &row{want: most(2, "2")}
	r.figures[contender.Ours] = []float64{9, 2, 1} // the median counts
	if v := r.judge(nil); !v.known || !v.met {
		t.Errorf("got %+v", v)
	}
}

func TestPlots(t *testing.T) {
	s := suite{experiments: shareExperiments(), samples: map[string]*[subjects][]float64{}}
	for i, x := range s.experiments {
		x.rows[0].figures = of(10e3, 75e3/float64(1+i*i), 150e3/float64(1+i), 0)
	}
	for i, k := range kinds {
		all := new([subjects][]float64)
		for subject := range contender.All {
			for j := range 300 {
				all[subject] = append(all[subject], float64((1+j)*(1+i)*(3-subject)*1000))
			}
		}
		s.samples[k.kind] = all
	}
	dir := t.TempDir()
	files, err := s.draw(dir)
	if err != nil || len(files) != 2 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, f := range files {
		text, err := os.ReadFile(filepath.Join(dir, f.file))
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range contender.All {
			if !strings.Contains(string(text), strings.ReplaceAll(c.Title, "'", "&#39;")) {
				t.Errorf("%s does not name %s", f.file, c.Title)
			}
		}
		if len(text) > 300_000 {
			t.Errorf("%s has %d bytes", f.file, len(text))
		}
	}
	delete(s.samples, hitLatency)
	if files, err = s.draw(dir); err != nil || len(files) != 1 {
		t.Errorf("%v, %v: what was not measured is drawn", files, err)
	}
}
