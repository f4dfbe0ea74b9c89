package main

import (
	"fmt"
	"image/color"
	"math"
	"os"
	"path/filepath"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"

	"github.com/etcd-leasing/leasing/integration/internal/contender"
)

// draw writes the plots that there are figures for.
func (s *suite) draw(dir string) (files []plotFile, err error) {
	for _, p := range []struct {
		plotFile
		draw func() (*vgsvg.Canvas, error)
	}{
		{plotFile{"throughput.svg", "Throughput by share of foreign operations"}, s.throughputPlot},
		{plotFile{"latency.svg", "Latencies"}, s.latencyPlot},
	} {
		c, err := p.draw()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.file, err)
		}
		if c == nil {
			continue
		}
		if err := save(c, filepath.Join(dir, p.file)); err != nil {
			return nil, err
		}
		files = append(files, p.plotFile)
	}
	return files, nil
}

func save(c *vgsvg.Canvas, path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if _, err := c.WriteTo(f); err != nil {
		_ = f.Close()
		return err
	}
	return f.Close()
}

const (
	plotWidth  = 20 * vg.Centimeter
	plotHeight = 11 * vg.Centimeter
	tallHeight = 17 * vg.Centimeter
	margin     = 4 * vg.Millimeter
)

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

// throughputPlot returns nil if a share was not measured.
func (s *suite) throughputPlot() (*vgsvg.Canvas, error) {
	p := newPlot("Operations per second of 4 clients, 95 % of them reads", "operations on others' keys, percent", "")
	p.X.Tick.Marker = plot.TickerFunc(func(float64, float64) (ticks []plot.Tick) {
		for i, share := range shares {
			ticks = append(ticks, plot.Tick{Value: float64(i), Label: fmt.Sprint(share)})
		}
		return ticks
	})
	decades(&p.Y, perSecond)
	p.Legend.Top = true
	for subject := range contender.All {
		var points plotter.XYs
		for i, share := range shares {
			r := s.find(shareName(share))
			if r == nil {
				return nil, nil
			}
			// A subject may have failed.
			if f := r.figure(subject); f > 0 {
				points = append(points, plotter.XY{X: float64(i), Y: f})
			}
		}
		if len(points) == 0 {
			continue
		}
		if err := addLine(p, subject, points); err != nil {
			return nil, err
		}
	}
	p.Y.Min, p.Y.Max = wholeDecades(p.Y.Min, p.Y.Max)
	c := vgsvg.New(plotWidth, plotHeight)
	p.Draw(draw.Crop(draw.New(c), margin, -margin, margin, -margin))
	return c, nil
}

func wholeDecades(low, high float64) (float64, float64) {
	return math.Pow(10, math.Floor(math.Log10(low))), math.Pow(10, math.Ceil(math.Log10(high)))
}

// curve is how many points a distribution is drawn with.
const curve = 101

// latencyPlot returns nil if a kind was not measured.
func (s *suite) latencyPlot() (*vgsvg.Canvas, error) {
	titles := map[string]string{
		hitLatency:      "get of an owned key (plain: a get)",
		claimLatency:    "first get of a key (plain: a get)",
		foreignLatency:  "get of a foreign key (plain: a get)",
		takeoverLatency: "put of a foreign key (plain: a put)",
	}
	panels := [][]*plot.Plot{nil, nil}
	low, high := math.Inf(1), math.Inf(-1)
	for i, kind := range []string{hitLatency, claimLatency, foreignLatency, takeoverLatency} {
		if s.samples[kind] == nil {
			return nil, nil
		}
		p := newPlot(titles[kind], "", "percent of all")
		p.Legend.Left, p.Legend.Top = true, true
		for subject := range contender.All {
			if err := addDistribution(p, subject, s.samples[kind][subject]); err != nil {
				return nil, err
			}
		}
		low, high = min(low, p.X.Min), max(high, p.X.Max)
		panels[i/2] = append(panels[i/2], p)
	}
	low, high = wholeDecades(low, high)
	for _, row := range panels {
		for _, p := range row {
			decades(&p.X, nanoseconds)
			p.X.Min, p.X.Max, p.Y.Min, p.Y.Max = low, high, 0, 100
		}
	}
	c := vgsvg.New(plotWidth, tallHeight)
	tiles := draw.Tiles{Rows: 2, Cols: 2, PadX: 2 * margin, PadY: 2 * margin, PadTop: margin, PadBottom: margin, PadLeft: margin, PadRight: 2 * margin}
	for i, row := range plot.Align(panels, tiles, draw.New(c)) {
		for j, canvas := range row {
			panels[i][j].Draw(canvas)
		}
	}
	return c, nil
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
