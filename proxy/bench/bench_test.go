package main

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "as" {
		if become(os.Args[2], os.Args[3:]) != nil {
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// The whole of it, small: each row gets a figure of each way.
func TestShort(t *testing.T) {
	if testing.Short() {
		t.Skip("starts an etcd and two proxies, and builds one of them")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	file := t.TempDir() + "/table.md"
	b := bench{out: file, rounds: 1, short: true}
	if err := b.run(ctx); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range newTable().rows {
		if !strings.Contains(string(text), "| "+r.name+" | ") {
			t.Errorf("there is no row %q", r.name)
		}
	}
}

// Rates are better if they are higher, times if they are lower.
func TestVerdicts(t *testing.T) {
	for _, tc := range []struct {
		row  row
		want string
	}{
		{row{rate: true, factor: 2, of: theirs, figures: [waysThereAre][]float64{{1}, {50, 100, 900}, {250}, {300}}}, "≥ 2 × etcd's leasing proxy: yes, 2.50 × (*floor* 3.00 ×)"},
		{row{rate: true, factor: 2, of: theirs, figures: [waysThereAre][]float64{{1}, {100}, {150}, {100}}}, "≥ 2 × etcd's leasing proxy: **no**, 1.50 × (*floor* 1.00 ×)"},
		{row{factor: 0.8, of: direct, figures: [waysThereAre][]float64{{90}, {1}, {100}, {90}}}, "≥ 0.8 × direct: yes, 0.90 × (*floor* 1.00 ×)"},
		{row{factor: 0.8, of: direct, figures: [waysThereAre][]float64{{799}, {1}, {1000}, {1000}}}, "≥ 0.8 × direct: **no**, 0.79 × (*floor* 0.79 ×)"},
		{row{factor: 0.8, of: direct, figures: [waysThereAre][]float64{{50}, {1}, {100}, {200}}}, "≥ 0.8 × direct: **no**, 0.50 × (*floor* 0.25 ×)"},
	} {
		if got := tc.row.met(); got != tc.want {
			t.Errorf("%s, want %s", got, tc.want)
		}
	}
}
