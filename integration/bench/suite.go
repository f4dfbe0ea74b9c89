package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"runtime"
	"sync"
	"time"

	"github.com/etcd-leasing/leasing/integration/internal/contender"
)

// cellLimit is how long one subject may take in one round of an experiment.
const cellLimit = 10 * time.Minute

// ballast is held while everything runs, so that garbage is collected equally
// often for all, as in an application that holds something itself. Without it,
// whoever holds less pays more for the garbage of each read.
const ballast = 64 << 20

// suite runs experiments and holds what they have found.
type suite struct {
	experiments []*experiment
	sizes       *sizes
	rounds      int
	dir         string // for the data of the servers
	profiles    string // where to write CPU profiles; empty for none
	out         io.Writer
	progress    io.Writer

	samples map[string]*[subjects][]float64 // latencies by kind, of all rounds
}

// allExperiments returns all of them, group by group.
func allExperiments(s *sizes) (all []*experiment) {
	for _, g := range []struct {
		name string
		of   []*experiment
	}{
		{"Reads from memory", hitExperiments()},
		{"One operation after the other", singleExperiments()},
		{"Many at the same time", crowdExperiments(s)},
		{"Workloads", workloadExperiments()},
		{"Throughput by share of foreign operations", shareExperiments()},
		{"Many keys", manyExperiments(s)},
	} {
		for _, x := range g.of {
			x.group = g.name
			all = append(all, x)
		}
	}
	return all
}

// matching returns the experiments that have a row whose name matches.
func matching(all []*experiment, name *regexp.Regexp) (some []*experiment) {
	for _, x := range all {
		for _, r := range x.rows {
			if name.MatchString(r.name) {
				some = append(some, x)
				break
			}
		}
	}
	return some
}

// find returns the row of that name; nil if it is not in this suite.
func (s *suite) find(name string) *row {
	for _, x := range s.experiments {
		for _, r := range x.rows {
			if r.name == name {
				return r
			}
		}
	}
	return nil
}

// play runs everything and prints each row when it is complete. A subject that
// fails is left out from there on, and is in the error; the others go on.
func (s *suite) play(ctx context.Context) error {
	weight := make([]byte, ballast)
	defer runtime.KeepAlive(weight)
	s.samples = make(map[string]*[subjects][]float64)
	var errs []error
	group := ""
	for _, x := range s.experiments {
		if x.group != group {
			group = x.group
			s.printHead(group)
		}
		errs = append(errs, s.run(ctx, x))
		if ctx.Err() != nil {
			break
		}
		for _, r := range x.rows {
			s.printRow(r)
		}
	}
	return errors.Join(errs...)
}

// run runs one experiment: round by round, and all subjects in each. Each has
// an etcd for itself, and leaves nothing to the next experiment.
func (s *suite) run(ctx context.Context, x *experiment) (err error) {
	servers, err := s.startServers(ctx, x)
	defer func() { err = errors.Join(err, stopServers(servers)) }()
	if err != nil {
		return err
	}
	failed := make(map[int]bool)
	for round := range s.rounds * max(x.repeats, 1) {
		for _, subject := range x.subjects() {
			if failed[subject] || !x.takes(subject, round) || ctx.Err() != nil {
				continue
			}
			if cellErr := s.cell(ctx, x, subject, round, servers[subject]); cellErr != nil {
				failed[subject] = true
				err = errors.Join(err, fmt.Errorf("%s, %s: %w", subjectName(subject), x.rows[0].name, cellErr))
			}
		}
	}
	return err
}

// startServers starts an etcd for each subject that needs one, all at once.
// Those that it returns are to be stopped, also if there is an error.
func (s *suite) startServers(ctx context.Context, x *experiment) (servers [subjects]*server, err error) {
	var errs [subjects]error
	var wg sync.WaitGroup
	for _, subject := range x.subjects() {
		if subject != floorSubject {
			wg.Go(func() { servers[subject], errs[subject] = startServer(ctx, s.dir) })
		}
	}
	wg.Wait()
	return servers, errors.Join(errs[:]...)
}

func stopServers(servers [subjects]*server) error {
	var errs [subjects]error
	var wg sync.WaitGroup
	for i, srv := range servers {
		if srv != nil {
			wg.Go(func() { errs[i] = srv.stop() })
		}
	}
	wg.Wait()
	return errors.Join(errs[:]...)
}

// cell measures one subject in one round.
func (s *suite) cell(ctx context.Context, x *experiment, subject, round int, srv *server) error {
	ctx, cancel := context.WithTimeout(ctx, cellLimit)
	defer cancel()
	e := &env{ctx: ctx, sizes: s.sizes, subject: subject, round: round, progress: s.progress, profiles: s.profiles, row: x.rows[0].name}
	if srv != nil {
		e.endpoint, e.server = srv.endpoint, srv
	}
	e.keep = func(kind string, latencies []float64) {
		if s.samples[kind] == nil {
			s.samples[kind] = new([subjects][]float64)
		}
		s.samples[kind][subject] = append(s.samples[kind][subject], latencies...)
	}
	runtime.GC() // what earlier ones have left
	figures, err := e.attempt(x.measure)
	for i, f := range figures {
		x.rows[i].figures[subject] = append(x.rows[i].figures[subject], f)
	}
	return err
}

func (s *suite) printHead(group string) {
	fmt.Fprintf(s.out, "\n%-62s %20s %20s %20s   %s\n", group,
		contender.All[contender.Plain].Title, contender.All[contender.Theirs].Title, contender.All[contender.Ours].Title, "target")
}

func (s *suite) printRow(r *row) {
	if f := r.figure(floorSubject); f == f {
		fmt.Fprintf(s.out, "  %-60s %20s %20s %20s   %s\n", "floor: "+r.name, "", "", "", r.unit.show(f))
	}
	fmt.Fprintf(s.out, "  %-60s %20s %20s %20s   %s\n", r.name,
		r.cell(contender.Plain), r.cell(contender.Theirs), r.cell(contender.Ours), joined(r.targetText(), r.verdictText(s.find)))
}

func joined(a, b string) string {
	if b == "" {
		return a
	}
	return a + ": " + b
}
