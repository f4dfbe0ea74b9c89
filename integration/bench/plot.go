package main

import (
	"bytes"
	"fmt"
	"image/color"
	"math"
	"os"
	"path/filepath"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"

	"github.com/etcd-leasing/leasing/integration/internal/contender"
)

// picture is a plot, and whether there are figures for it.
type picture struct {
	plotFile
	height vg.Length
	ready  func() bool
	draw   func(draw.Canvas) error
}

func (s *suite) pictures() []picture {
	return []picture{
		{plotFile{"throughput.svg", "Throughput by share of foreign operations"}, 11 * vg.Centimeter, s.hasThroughput, s.drawThroughput},
		{plotFile{"latency.svg", "Latencies"}, 17 * vg.Centimeter, s.hasLatencies, s.drawLatencies},
	}
}

// draw writes the plots that there are figures for.
func (s *suite) draw(dir string) (files []plotFile, err error) {
	for _, p := range s.pictures() {
		if !p.ready() {
			continue
		}
		svg := vgsvg.New(plotWidth, p.height)
		if err := p.on(draw.New(svg)); err != nil {
			return nil, fmt.Errorf("%s: %w", p.file, err)
		}
		var text bytes.Buffer
		if _, err := svg.WriteTo(&text); err != nil {
			return nil, err
		}
		// Who has not got that font shall see one that is like it.
		whole := bytes.ReplaceAll(text.Bytes(), []byte("font-family:Liberation Sans;"), []byte("font-family:Liberation Sans,Arial,Helvetica,sans-serif;"))
		if err := os.WriteFile(filepath.Join(dir, p.file), whole, 0o644); err != nil {
			return nil, err
		}
		files = append(files, p.plotFile)
	}
	return files, nil
}

const (
	plotWidth = 20 * vg.Centimeter
	margin    = 4 * vg.Millimeter
)

// on draws the picture on white, also where it has nothing to show.
func (p picture) on(c draw.Canvas) error {
	c.SetColor(color.White)
	c.Fill(c.Rectangle.Path())
	return p.draw(draw.Crop(c, margin, -margin, margin, -margin))
}

// lineStyle is the same for a contender everywhere: its colour can be told by
// those who see no red or green, and its dashes by those who print it.
func lineStyle(subject int) draw.LineStyle {
	return [len(contender.All)]draw.LineStyle{
		contender.Plain:  {Color: color.RGBA{R: 0x55, G: 0x55, B: 0x55, A: 0xff}, Width: vg.Points(1.6), Dashes: []vg.Length{vg.Points(5), vg.Points(3)}},
		contender.Theirs: {Color: color.RGBA{R: 0xd5, G: 0x5e, B: 0x00, A: 0xff}, Width: vg.Points(1.6), Dashes: []vg.Length{vg.Points(2), vg.Points(2)}},
		contender.Ours:   {Color: color.RGBA{R: 0x00, G: 0x72, B: 0xb2, A: 0xff}, Width: vg.Points(2.2)},
	}[subject]
}

// newPlot returns an empty one with a grid.
func newPlot(title, x, y string) *plot.Plot {
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = title, x, y
	p.Title.Padding = vg.Points(4)
	grid := plotter.NewGrid()
	light := color.Gray{0xdd}
	grid.Horizontal.Color, grid.Vertical.Color = light, light
	p.Add(grid)
	for _, f := range []*font.Font{
		&p.Title.TextStyle.Font, &p.X.Label.TextStyle.Font, &p.Y.Label.TextStyle.Font,
		&p.X.Tick.Label.Font, &p.Y.Tick.Label.Font, &p.Legend.TextStyle.Font,
	} {
		f.Variant = "Sans"
	}
	return p
}

// addLine draws the points of a contender, and names it in the legend.
func addLine(p *plot.Plot, subject int, points plotter.XYs) error {
	if len(points) == 0 {
		return nil
	}
	line, err := plotter.NewLine(points)
	if err != nil {
		return err
	}
	line.LineStyle = lineStyle(subject)
	p.Add(line)
	p.Legend.Add(contender.All[subject].Title, line)
	return nil
}

// decades has one axis grow by factors of ten, each with a label.
func decades(a *plot.Axis, u unit) {
	a.Scale = plot.LogScale{}
	a.Tick.Marker = plot.TickerFunc(func(low, high float64) (ticks []plot.Tick) {
		for d := math.Pow(10, math.Floor(math.Log10(low))); d <= high*10; d *= 10 {
			for m := 1.0; m < 10; m++ {
				t := plot.Tick{Value: m * d}
				if m == 1 {
					t.Label = u.show(d)
				}
				ticks = append(ticks, t)
			}
		}
		return ticks
	})
}

func (s *suite) hasThroughput() bool {
	return !slices.ContainsFunc(shares, func(share int) bool { return s.find(shareName(share)) == nil })
}

func (s *suite) drawThroughput(c draw.Canvas) error {
	p := newPlot("Operations per second of 4 clients, 95 % of them reads", "operations on others' keys, percent", "")
	// The shares are evenly spaced: most of what happens does so below 10 %.
	p.X.Tick.Marker = plot.TickerFunc(func(float64, float64) (ticks []plot.Tick) {
		for i, share := range shares {
			ticks = append(ticks, plot.Tick{Value: float64(i), Label: fmt.Sprint(share)})
		}
		return ticks
	})
	decades(&p.Y, perSecond)
	p.Legend.Top, p.Legend.XOffs, p.Legend.YOffs = true, -margin, -margin
	for subject := range contender.All {
		var points plotter.XYs
		for i, share := range shares {
			if f := s.find(shareName(share)).figure(subject); f > 0 { // else it has failed
				points = append(points, plotter.XY{X: float64(i), Y: f})
			}
		}
		if err := addLine(p, subject, points); err != nil {
			return err
		}
	}
	p.Y.Min, p.Y.Max = wholeDecades(p.Y.Min, p.Y.Max)
	p.Draw(c)
	return nil
}

func wholeDecades(low, high float64) (float64, float64) {
	return math.Pow(10, math.Floor(math.Log10(low))), math.Pow(10, math.Ceil(math.Log10(high)))
}

// curve is how many points a distribution is drawn with.
const curve = 101

// kinds are the latencies that are drawn, one panel each.
var kinds = []struct{ kind, title string }{
	{hitLatency, "get of an owned key (plain: a get)"},
	{claimLatency, "first get of a key (plain: a get)"},
	{foreignLatency, "get of a foreign key (plain: a get)"},
	{takeoverLatency, "put of a foreign key (plain: a put)"},
}

func (s *suite) hasLatencies() bool {
	for _, k := range kinds {
		if s.samples[k.kind] == nil {
			return false
		}
	}
	return true
}

func (s *suite) drawLatencies(c draw.Canvas) error {
	var all []*plot.Plot
	low, high := math.Inf(1), math.Inf(-1)
	for _, k := range kinds {
		p := newPlot(k.title, "", "percent of all")
		p.Legend.Left, p.Legend.Top, p.Legend.XOffs = true, true, margin/2
		for subject := range contender.All {
			if err := addDistribution(p, subject, s.samples[k.kind][subject]); err != nil {
				return err
			}
		}
		if k.kind == hitLatency {
			p.Legend = plot.NewLegend() // it would be in the way, and the others have it
		}
		low, high = min(low, p.X.Min), max(high, p.X.Max)
		all = append(all, p)
	}
	low, high = wholeDecades(low, high)
	for _, p := range all {
		decades(&p.X, nanoseconds)
		p.X.Min, p.X.Max, p.Y.Min, p.Y.Max = low, high, 0, 100
	}
	panels := [][]*plot.Plot{all[:2], all[2:]}
	tiles := draw.Tiles{Rows: 2, Cols: 2, PadX: 2 * margin, PadY: 2 * margin, PadRight: margin}
	for i, row := range plot.Align(panels, tiles, c) {
		for j, canvas := range row {
			panels[i][j].Draw(canvas)
		}
	}
	return nil
}

// addDistribution draws how many percent took at most so long.
func addDistribution(p *plot.Plot, subject int, latencies []float64) error {
	if len(latencies) == 0 {
		return nil
	}
	points := make(plotter.XYs, curve)
	for i, q := range quantiles(latencies, curve) {
		points[i] = plotter.XY{X: max(q, 1), Y: float64(i)}
	}
	return addLine(p, subject, points)
}
