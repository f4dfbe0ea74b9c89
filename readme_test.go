package leasing_test

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// Every Go snippet of the README stands in an Example, and so compiles. What it
// does is run by another Example, on an etcd in memory.
func TestREADMESnippetsAreExamples(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	examples, err := os.ReadFile("example_test.go")
	if err != nil {
		t.Fatal(err)
	}
	folded := strings.Join(strings.Fields(string(examples)), " ")
	snippets := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(string(readme), -1)
	if len(snippets) == 0 {
		t.Fatal("the README has no Go snippet")
	}
	for _, s := range snippets {
		if !strings.Contains(folded, strings.Join(strings.Fields(s[1]), " ")) {
			t.Errorf("this snippet is not in an example:\n%s", s[1])
		}
	}
}
