package debug_test

import (
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
)

// The JSON is what programs rely on: its names never change, and with them this file.
func TestJSONSchema(t *testing.T) {
	want, err := os.ReadFile("testdata/state.json")
	if err != nil {
		t.Fatal(err)
	}
	onRig(t, func(t *testing.T, r *rig) {
		other := openKV(t, r.srv.NewClient("other"))
		defer other.Close()
		r.read("greeting", 640)
		r.read("\xff", 640)
		r.put(other, "greeting", "hello")
		time.Sleep(4 * time.Second)
		got := r.ask(http.MethodGet, "/?format=json").Body.Bytes()
		got = regexp.MustCompile(`"id": "[0-9a-f]+"`).ReplaceAll(got, []byte(`"id": "1"`))
		// Which reads are sampled depends on where the stacks of their goroutines are.
		got = regexp.MustCompile(`(?s)("hottest_keys": \[).*?\n  \]`).ReplaceAll(got, []byte("$1]"))
		if string(got) != string(want) {
			t.Errorf("the JSON is not that of testdata/state.json, but\n%s", got)
		}
	})
}

// A key that is not text is told by its bytes, too.
func TestJSONKeys(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		r.read("greeting", 64*64)
		r.read("\xffkey", 128*64)
		h := r.json().Hottest
		if len(h) != 2 || h[0].Key != "\ufffdkey" || string(h[0].Base64) != "\xffkey" || h[1].Key != "greeting" || h[1].Base64 != nil {
			t.Errorf("the hottest keys are %+v", h)
		}
	})
}

// What is not known yet is null, not zero.
func TestJSONOfNothing(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		body := r.ask(http.MethodGet, "/?format=json").Body.String()
		for _, want := range []string{`"hit_ratio": null`, `"p50_seconds": null`, `"p99_seconds": null`, `"hottest_keys": []`, `"history": []`} {
			if !strings.Contains(body, want) {
				t.Errorf("there is no %s in\n%s", want, body)
			}
		}
	})
}
