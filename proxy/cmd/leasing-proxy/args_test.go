package main

import (
	"bytes"
	"io"
	"strings"
	"testing"
)

// A password whose flag was mistyped is not told to whoever logs what the program says.
func TestPasswordsAreNotTold(t *testing.T) {
	for _, args := range []string{"-password=hunter2", "-phunter2", "-user=me:hunter2", "--=hunter2", "--password= hunter2", "--password me hunter2", "hunter2"} {
		var out, errs bytes.Buffer
		if code := run(t.Context(), strings.Fields(args), nil, &out, &errs); code != exitUsage || !strings.Contains(errs.String(), "two dashes") {
			t.Errorf("%s: %d, %s", args, code, &errs)
		}
		if strings.Contains(out.String()+errs.String(), "hunter2") {
			t.Errorf("%s: told: %s%s", args, &out, &errs)
		}
	}
	var errs bytes.Buffer
	if run(t.Context(), []string{"--pasword=hunter2"}, nil, io.Discard, &errs); !strings.Contains(errs.String(), "--pasword") || strings.Contains(errs.String(), "hunter2") {
		t.Errorf("an unknown flag: %s", &errs)
	}
}
