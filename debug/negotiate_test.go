package debug_test

import (
	"net/http"
	"strings"
	"testing"
)

// JSON goes to who asks for it, the page to everybody else.
func TestNegotiation(t *testing.T) {
	const html, json = "text/html; charset=utf-8", "application/json"
	onRig(t, func(t *testing.T, r *rig) {
		for _, c := range []struct{ target, accept, want string }{
			{"/", "", html},
			{"/", "*/*", html},
			{"/", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", html},
			{"/", "application/json", json},
			{"/", "application/json, text/plain, */*", json},
			{"/", "text/html, application/json", html},
			{"/", "text/html;q=0.5, application/json;q=0.6", json},
			{"/", "application/json;q=0", html},
			{"/", "application/json;q=much", html},
			{"/", "nonsense/;;, ,", html},
			{"/?format=json", "text/html", json},
			{"/?format=html", "application/json", html},
			{"/debug/leasing?format=json", "", json},
		} {
			if got := r.ask(http.MethodGet, c.target, "Accept", c.accept).Header().Get("Content-Type"); got != c.want {
				t.Errorf("%s, accepting %q: %s, want %s", c.target, c.accept, got, c.want)
			}
		}
		if got := r.ask(http.MethodGet, "/", "Accept", "text/plain", "Accept", "application/json").Header().Get("Content-Type"); got != json {
			t.Errorf("two headers: %s", got)
		}
	})
}

// A browser asks again if it is told to; what makes no sense is refused, with what would.
func TestRefresh(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		if body := r.html(); strings.Contains(body, "http-equiv") || !strings.Contains(body, `href="?refresh=10"`) {
			t.Error("the page refreshes itself without being asked to, or does not offer it")
		}
		if body := r.ask(http.MethodGet, "/?refresh=10").Body.String(); !strings.Contains(body, `<meta http-equiv="refresh" content="10">`) {
			t.Error("the page does not refresh itself")
		}
		for target, want := range map[string]string{
			"/?refresh=0": "from 1 to 3600", "/?refresh=-1": "from 1 to 3600", "/?refresh=3601": "from 1 to 3600",
			"/?refresh=<b>": "from 1 to 3600", "/?format=xml": "use json or html",
		} {
			w := r.ask(http.MethodGet, target)
			if w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), want) || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/plain") {
				t.Errorf("%s: %d %s %s", target, w.Code, w.Header().Get("Content-Type"), w.Body)
			}
		}
	})
}
