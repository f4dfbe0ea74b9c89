package dashboard

import (
	"encoding/json"
	"os"
	"slices"
	"testing"
)

// board is what the tests look at of docs/grafana.json.
type board struct {
	UID, Title    string
	SchemaVersion int
	Panels        []panel
	Templating    struct{ List []variable }
}

type panel struct {
	ID                       int
	Type, Title, Description string
	Datasource               source
	GridPos                  place
	FieldConfig              struct{ Defaults struct{ Unit string } }
	Targets                  []target
}

type target struct {
	RefID, Expr, LegendFormat string
	Datasource                source
}

type variable struct {
	Name, Type string
	Query      any // text, or an object with the text
	Datasource source
}

// source is of whom a query is asked. It has to be the one that is chosen above the
// panels.
type source struct{ Type, UID string }

var chosen = source{"prometheus", "${datasource}"}

// place is where a panel is, in the 24 columns of a dashboard.
type place struct{ X, Y, W, H int }

func (p place) overlaps(q place) bool {
	return p.X < q.X+q.W && q.X < p.X+p.W && p.Y < q.Y+q.H && q.Y < p.Y+p.H
}

func grafana(t *testing.T) (b board) {
	t.Helper()
	text, err := os.ReadFile("../../docs/grafana.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &b); err != nil {
		t.Fatal(err)
	}
	if b.UID == "" || b.Title == "" || b.SchemaVersion < 36 || len(b.Panels) < 10 {
		t.Fatalf("dashboard %q, titled %q, schema %d, %d panels", b.UID, b.Title, b.SchemaVersion, len(b.Panels))
	}
	return b
}

// graphs are the panels that show something: all but the titles of rows.
func (b board) graphs() (ps []panel) {
	for _, p := range b.Panels {
		if p.Type != "row" {
			ps = append(ps, p)
		}
	}
	return ps
}

func TestRows(t *testing.T) {
	var got []string
	for _, p := range grafana(t).Panels {
		if p.Type == "row" {
			got = append(got, p.Title)
		}
	}
	if want := []string{"Session", "Reads", "Ownership", "Writes"}; !slices.Equal(got, want) {
		t.Errorf("the rows are %q, want %q", got, want)
	}
}

func TestPanelsSayWhatTheyShow(t *testing.T) {
	titles := make(map[string]bool)
	for _, p := range grafana(t).graphs() {
		if p.Title == "" || titles[p.Title] {
			t.Errorf("panel %d has no title of its own: %q", p.ID, p.Title)
		}
		titles[p.Title] = true
		if p.Description == "" {
			t.Errorf("%s: no description", p.Title)
		}
		if p.FieldConfig.Defaults.Unit == "" {
			t.Errorf("%s: no unit", p.Title)
		}
	}
}

func TestPanelsAskTheChosenDatasource(t *testing.T) {
	for _, p := range grafana(t).graphs() {
		if p.Datasource != chosen || len(p.Targets) == 0 {
			t.Errorf("%s: %d queries of %v", p.Title, len(p.Targets), p.Datasource)
		}
		ids := make(map[string]bool)
		for _, q := range p.Targets {
			if q.Datasource != chosen || q.LegendFormat == "" || q.RefID == "" || ids[q.RefID] {
				t.Errorf("%s: query %q of %v, with legend %q", p.Title, q.RefID, q.Datasource, q.LegendFormat)
			}
			ids[q.RefID] = true
		}
	}
}

func TestPanelsDoNotOverlap(t *testing.T) {
	panels := grafana(t).Panels
	for i, p := range panels {
		if g := p.GridPos; g.W < 1 || g.H < 1 || g.X < 0 || g.Y < 0 || g.X+g.W > 24 {
			t.Errorf("%s is at %+v", p.Title, g)
		}
		for _, q := range panels[:i] {
			if p.GridPos.overlaps(q.GridPos) || p.ID == q.ID {
				t.Errorf("%s (%d) and %s (%d) are in one place, or have one id", q.Title, q.ID, p.Title, p.ID)
			}
		}
	}
}

func TestVariables(t *testing.T) {
	vars := grafana(t).Templating.List
	if len(vars) != 2 || vars[0].Name != "datasource" || vars[0].Type != "datasource" || vars[0].Query != "prometheus" {
		t.Fatalf("the variables are %+v", vars)
	}
	if v := vars[1]; v.Name != "instance" || v.Type != "query" || v.Datasource != chosen {
		t.Errorf("the second variable is %+v", v)
	}
}
