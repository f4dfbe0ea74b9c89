// Command bench measures etcd's plain client, etcd's own leasing package and
// this library side by side: the rows and targets are those of the project's
// goals of speed. It prints a table as it goes, and can write it as Markdown,
// with two plots. A target that is missed is no error.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"
)

func main() {
	var o options
	flag.StringVar(&o.out, "o", "", "write the table as Markdown to this `file`")
	flag.StringVar(&o.plots, "plots", "", "write the plots to this `folder`")
	flag.StringVar(&o.run, "run", "", "run only what has a row whose name matches this `regexp`")
	flag.StringVar(&o.dir, "dir", "", "`folder` on the disk that etcd shall write to; empty means the one for temporary files")
	flag.StringVar(&o.profile, "profile", "", "write CPU profiles of what is timed to this `folder`, the server's and the client's")
	flag.IntVar(&o.rounds, "rounds", 5, "how often each contender has its turn")
	flag.BoolVar(&o.short, "short", false, "small sizes, to see that it works: the figures mean nothing")
	data := flag.String("serve", "", "run an etcd with its data in this `folder`, as the program does for itself")
	flag.Parse()
	var err error
	if *data != "" {
		err = serve(*data)
	} else {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		err = o.bench(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type options struct {
	out, plots, run, dir, profile string
	rounds                        int
	short                         bool
}

// bench measures, and writes what was asked for, even if something failed.
func (o options) bench(ctx context.Context) error {
	name, err := regexp.Compile(o.run)
	if err != nil {
		return err
	}
	s := suite{sizes: fullSizes(), rounds: o.rounds, dir: o.dir, profiles: o.profile, out: os.Stdout, progress: os.Stderr}
	if o.short {
		s.sizes = shortSizes()
	}
	s.experiments = matching(allExperiments(s.sizes), name)
	if len(s.experiments) == 0 || o.rounds < 1 {
		return errors.New("nothing is to be measured")
	}
	if o.profile != "" {
		if err := os.MkdirAll(o.profile, 0o755); err != nil {
			return err
		}
	}
	began := time.Now()
	err = s.play(ctx)
	fmt.Printf("\nIt took %v.\n", time.Since(began).Round(time.Second))
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return errors.Join(err, o.write(&s))
}

// write writes the plots and the document.
func (o options) write(s *suite) error {
	doc := document{experiments: s.experiments, find: s.find, about: about(o.rounds)}
	if o.plots != "" {
		var err error
		if doc.plots, err = s.draw(o.plots); err != nil {
			return err
		}
	}
	if o.out == "" {
		return nil
	}
	for i, p := range doc.plots {
		// As a link from the document.
		rel, err := filepath.Rel(filepath.Dir(o.out), filepath.Join(o.plots, p.file))
		if err != nil {
			return err
		}
		doc.plots[i].file = filepath.ToSlash(rel)
	}
	var text strings.Builder
	doc.render(&text)
	return os.WriteFile(o.out, []byte(text.String()), 0o644)
}
