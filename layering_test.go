package leasing

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// sources parses the files of the package root: those that are built, and the
// tests.
func sources(t *testing.T) (code, tests map[string]*ast.File, fset *token.FileSet) {
	t.Helper()
	dir, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	code, tests, fset = make(map[string]*ast.File), make(map[string]*ast.File), token.NewFileSet()
	for _, f := range dir {
		if !strings.HasSuffix(f.Name(), ".go") {
			continue
		}
		file, err := parser.ParseFile(fset, f.Name(), nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(f.Name(), "_test.go") {
			tests[f.Name()] = file
		} else {
			code[f.Name()] = file
		}
	}
	if len(code) < 10 || len(tests) < 5 {
		t.Fatalf("%d sources and %d tests found", len(code), len(tests))
	}
	return code, tests, fset
}

// selected calls f with each x.name in file, and with the last word of x.
func selected(file *ast.File, f func(x, name string, at ast.Node)) {
	ast.Inspect(file, func(n ast.Node) bool {
		if sel, ok := n.(*ast.SelectorExpr); ok {
			switch x := sel.X.(type) {
			case *ast.Ident:
				f(x.Name, sel.Sel.Name, sel)
			case *ast.SelectorExpr:
				f(x.Sel.Name, sel.Sel.Name, sel)
			default:
				f("", sel.Sel.Name, sel)
			}
		}
		return true
	})
}

// The files that decide what is true do no I/O and wait for nobody.
func TestLayeringPureFiles(t *testing.T) {
	code, _, fset := sources(t)
	network := []string{"KV", "Client", "Watcher", "Lease", "Watch", "WatchChan", "Txn", "New", "NewKV", "NewClient", "NewCtxClient"}
	for _, name := range []string{"cache.go", "cache_bounds.go", "cache_bulk.go", "cache_claim.go", "cache_misses.go", "cache_news.go", "cache_rest.go", "cache_write.go", "clock.go", "index.go", "plan.go", "util.go", "claim.go"} {
		file := code[name]
		if file == nil {
			t.Errorf("there is no %s", name)
			continue
		}
		for _, imp := range file.Imports {
			path, _ := strconv.Unquote(imp.Path.Value)
			if slices.Contains([]string{"context", "net", "net/http", "io", "os", "google.golang.org/grpc", "go.uber.org/zap"}, path) {
				t.Errorf("%s imports %s", name, path)
			}
		}
		selected(file, func(x, sel string, at ast.Node) {
			if x == "clientv3" && slices.Contains(network, sel) || x == "time" && slices.Contains([]string{"Now", "Sleep", "Since", "Until", "After", "NewTimer"}, sel) {
				t.Errorf("%v uses %s.%s", fset.Position(at.Pos()), x, sel)
			}
		})
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.SendStmt, *ast.SelectStmt:
				t.Errorf("%v: a channel operation", fset.Position(n.Pos()))
			case *ast.UnaryExpr:
				if n.Op == token.ARROW {
					t.Errorf("%v: a channel operation", fset.Position(n.Pos()))
				}
			}
			return true
		})
	}
}

// Nothing but the cache*.go, clock.go and index.go sees an entry, the lock over them, or what
// it guards. A claim and a pin lead to an entry, by fields of these names.
func TestLayeringEntries(t *testing.T) {
	code, _, fset := sources(t)
	for name, file := range code {
		if strings.HasPrefix(name, "cache") || name == "clock.go" || name == "index.go" {
			continue
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if id, ok := n.(*ast.Ident); ok && slices.Contains([]string{"entry", "entries", "index", "newIndex"}, id.Name) {
				t.Errorf("%v mentions %s", fset.Position(id.Pos()), id.Name)
			}
			return true
		})
		selected(file, func(x, sel string, at ast.Node) {
			if (x == "cache" || x == "c") && slices.Contains([]string{"mu", "barring", "aging", "owning", "underway", "misses", "passes"}, sel) || strings.HasSuffix(sel, "Locked") && x == "cache" {
				t.Errorf("%v uses %s.%s", fset.Position(at.Pos()), x, sel)
			}
		})
	}
}

// A read from memory first loads the highest revision, then what it is to tell,
// and looks at the clock last. Nothing that a test could do from outside would
// come between.
func TestI1I10OrderOfALocalRead(t *testing.T) {
	code, _, _ := sources(t)
	for fn, want := range map[string][]string{
		"kv.go serve":       {"seen.Load", "cache.lookup", "time.Now"},
		"local.go evaluate": {"seen.Load", "v.txn", "v.unchanged", "time.Now"},
	} {
		file, name, _ := strings.Cut(fn, " ")
		var got []string
		for _, d := range code[file].Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || f.Name.Name != name {
				continue
			}
			ast.Inspect(f, func(n ast.Node) bool {
				if call, ok := n.(*ast.CallExpr); ok {
					if what := callee(call); slices.Contains(want, what) {
						got = append(got, what)
					}
				}
				return true
			})
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s calls %q, not %q in this order", fn, got, want)
		}
	}
}

// callee is the last two words of what is called.
func callee(call *ast.CallExpr) string {
	sel, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return ""
	}
	switch x := sel.X.(type) {
	case *ast.Ident:
		return x.Name + "." + sel.Sel.Name
	case *ast.SelectorExpr:
		return x.Sel.Name + "." + sel.Sel.Name
	}
	return ""
}

// Goroutines start in one file.
func TestLayeringGoroutines(t *testing.T) {
	code, _, fset := sources(t)
	found := 0
	for name, file := range code {
		started := func(at ast.Node) {
			if found++; name != "session.go" {
				t.Errorf("%v starts a goroutine", fset.Position(at.Pos()))
			}
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if g, ok := n.(*ast.GoStmt); ok {
				started(g)
			}
			return true
		})
		selected(file, func(_, sel string, at ast.Node) {
			if sel == "Go" || sel == "AfterFunc" {
				started(at)
			}
		})
	}
	if found == 0 {
		t.Error("no goroutine is found, not even in session.go")
	}
}

// No init, no variables but errors, no prints.
func TestLayeringNoGlobals(t *testing.T) {
	code, _, fset := sources(t)
	for _, file := range code {
		for _, d := range file.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Recv == nil && d.Name.Name == "init" {
					t.Errorf("%v: init", fset.Position(d.Pos()))
				}
			case *ast.GenDecl:
				if d.Tok != token.VAR {
					continue
				}
				for _, spec := range d.Specs {
					for _, id := range spec.(*ast.ValueSpec).Names {
						if !regexp.MustCompile(`^([Ee]rr[A-Z]\w*|_)$`).MatchString(id.Name) {
							t.Errorf("%v: variable %s", fset.Position(id.Pos()), id.Name)
						}
					}
				}
			}
		}
		selected(file, func(x, sel string, at ast.Node) {
			if x == "fmt" && (strings.HasPrefix(sel, "Print") || strings.HasPrefix(sel, "Fprint")) || x == "log" && strings.HasPrefix(sel, "Print") {
				t.Errorf("%v prints", fset.Position(at.Pos()))
			}
		})
		ast.Inspect(file, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok {
				if id, ok := call.Fun.(*ast.Ident); ok && (id.Name == "print" || id.Name == "println") {
					t.Errorf("%v prints", fset.Position(call.Pos()))
				}
			}
			return true
		})
	}
}

// Every invariant stands where the code relies on it, and in the name of a
// test that pins it.
func TestEveryInvariantIsNamed(t *testing.T) {
	code, tests, _ := sources(t)
	relied, pinned := make(map[string]bool), make(map[string]bool)
	note := regexp.MustCompile(`Invariants?: (I\d+(?:(?:, | and )I\d+)*)`)
	number := regexp.MustCompile(`I\d+`)
	for _, file := range code {
		for _, group := range file.Comments {
			text := strings.Join(strings.Fields(group.Text()), " ")
			for _, m := range note.FindAllStringSubmatch(text, -1) {
				for _, i := range number.FindAllString(m[1], -1) {
					relied[i] = true
				}
			}
		}
	}
	prefix := regexp.MustCompile(`^Test((?:I\d+)+)[A-Z]`)
	for _, file := range tests {
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil {
				if m := prefix.FindStringSubmatch(f.Name.Name); m != nil {
					for _, i := range number.FindAllString(m[1], -1) {
						pinned[i] = true
					}
				}
			}
		}
	}
	for n := 1; n <= 14; n++ {
		i := fmt.Sprint("I", n)
		if !relied[i] {
			t.Errorf("no source says %q", "Invariant: "+i)
		}
		if !pinned[i] {
			t.Errorf("no test is named Test%s…", i)
		}
		delete(relied, i)
		delete(pinned, i)
	}
	for _, m := range []map[string]bool{relied, pinned} {
		for i := range m {
			t.Errorf("%s is no invariant of DESIGN.md", i)
		}
	}
}
