package debug_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/xml"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/etcd-leasing/leasing/debug"
	"github.com/etcd-leasing/leasing/internal/memetcd"
)

// Each state of the session, as people and programs are told it: also while etcd is away, and after Close.
func TestStates(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		for _, step := range []struct {
			do               func()
			text, state, why string
			leases           int
		}{
			{func() { r.read("k", 3) }, "valid", "valid", "a lease was granted", 1},
			{func() { r.conn.Cut(memetcd.Both); time.Sleep(rigTTL / 2) }, "valid", "valid", "a lease was granted", 1},
			{func() { time.Sleep(rigTTL) }, "in jeopardy", "jeopardy", "its deadline has passed", 0},
			{func() { r.conn.Heal(); time.Sleep(rigTTL) }, "valid", "valid", "a lease was granted", 1},
			{func() { r.kv.Close() }, "lost", "lost", "the KV is closed", 0},
		} {
			step.do()
			body, s := r.html(), r.json()
			for _, want := range []string{
				"<title>leasing: session " + step.text + "</title>", `<strong id="state">` + step.text + `</strong>`,
				`class="card state ` + step.state + `"`, `<span id="why">` + step.why + `</span>`,
			} {
				if !strings.Contains(body, want) {
					t.Errorf("the page of a session that is %s does not have %s", step.text, want)
				}
			}
			if s.Session.State != step.state || s.Session.Why != step.why || s.Session.Since == nil || len(s.Leases) != step.leases {
				t.Errorf("a session that is %s, because %q, with %d leases: %+v", step.state, step.why, step.leases, s)
			}
			if none := strings.Contains(body, "<td colspan=\"3\">No lease is live.</td>"); none != (step.leases == 0) {
				t.Errorf("%s: the page says that no lease is live: %v", step.text, none)
			}
			time.Sleep(time.Second)
		}
	})
}

// Values are nobody's business: not in HTML, not in JSON.
func TestNoValues(t *testing.T) {
	const secret = "a-value-that-nobody-may-see"
	onRig(t, func(t *testing.T, r *rig) {
		other := openKV(t, r.srv.NewClient("other"))
		defer other.Close()
		r.put(r.kv, "named", secret)
		r.read("named", 1000)
		r.put(other, "named", secret+"2")
		time.Sleep(time.Minute)
		r.read("named", 1000)
		for _, target := range []string{"/", "/?format=json"} {
			body := r.ask(http.MethodGet, target).Body.String()
			if strings.Contains(body, secret) || !strings.Contains(body, "named") {
				t.Errorf("%s has the value, or does not have the key:\n%s", target, body)
			}
		}
	})
}

// Keys are bytes of the application's: none of them is markup, and none is left out.
func TestHostileKeys(t *testing.T) {
	long := strings.Repeat("long/", 2000)
	onRig(t, func(t *testing.T, r *rig) {
		for _, key := range []string{
			"plain/key", "<script>document.title='x'</script>", `"quoted" & \`, "\x00\xff\xfe", "</title></style>",
			" space ", "новый ключ", "right\u202eleft", "line\nbreak", long,
		} {
			r.read(key, 200*64)
		}
		body := r.html()
		for _, want := range []string{
			"<code>plain/key</code>", "<code>&lt;script&gt;document.title=&#39;x&#39;&lt;/script&gt;</code>",
			`<code>&#34;\&#34;quoted\&#34; &amp; \\&#34;</code>`, `<code>&#34;\x00\xff\xfe&#34;</code>`,
			"<code>&lt;/title&gt;&lt;/style&gt;</code>", "<code>&#34; space &#34;</code>", "<code>новый ключ</code>",
			`<code>&#34;right\u202eleft&#34;</code>`, `<code>&#34;line\nbreak&#34;</code>`,
			`<code title="` + long + `">long/`, "<small>10,000 bytes</small>",
		} {
			if !strings.Contains(body, want) {
				t.Errorf("the page does not have %.100s", want)
			}
		}
		if strings.Contains(body, "<script") || strings.Count(body, "</style>") != 1 || strings.Count(body, long) != 1 {
			t.Error("a key is markup, or a long one is not shortened")
		}
		wellFormed(t, body)
		for _, k := range r.json().Hottest {
			if got := string(k.Base64); strings.ContainsRune(k.Key, '\ufffd') != (got == "\x00\xff\xfe") || k.Count == 0 {
				t.Errorf("key %q has the bytes %q, and was read %d times", k.Key, got, k.Count)
			}
		}
	})
}

// wellFormed fails if a tag is not closed where it should be.
func wellFormed(t *testing.T, body string) {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(body))
	d.Strict, d.AutoClose, d.Entity = false, []string{"meta"}, xml.HTMLEntity
	var open []string
	for {
		tok, err := d.RawToken()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		switch tok := tok.(type) {
		case xml.StartElement:
			if tok.Name.Local != "meta" {
				open = append(open, tok.Name.Local)
			}
		case xml.EndElement:
			if len(open) == 0 || open[len(open)-1] != tok.Name.Local {
				t.Fatalf("</%s> ends what is open in %v", tok.Name.Local, open)
			}
			open = open[:len(open)-1]
		}
	}
	if len(open) > 0 {
		t.Errorf("%v is not closed", open)
	}
}

// No cache, no frame, no script, no guess of the type: whatever is answered.
func TestHeaders(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		for _, req := range [][2]string{{"GET", "/"}, {"HEAD", "/"}, {"GET", "/?format=json"}, {"POST", "/"}, {"GET", "/?format=x"}} {
			h := r.ask(req[0], req[1]).Header()
			for name, want := range map[string]string{
				"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY",
				"Referrer-Policy": "no-referrer", "Vary": "Accept",
			} {
				if got := h.Get(name); got != want {
					t.Errorf("%s %s: %s is %q, want %q", req[0], req[1], name, got, want)
				}
			}
			policy := h.Get("Content-Security-Policy")
			if !strings.HasPrefix(policy, "default-src 'none'; style-src 'sha256-") || !strings.Contains(policy, "frame-ancestors 'none'") {
				t.Errorf("%s %s: the policy is %q", req[0], req[1], policy)
			}
		}
	})
}

// The policy allows the one style sheet by its hash, and the page has nothing that it would forbid.
func TestPolicyFitsThePage(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		w := r.ask(http.MethodGet, "/")
		sheet := regexp.MustCompile(`(?s)<style>(.*?)</style>`).FindStringSubmatch(w.Body.String())
		if sheet == nil {
			t.Fatal("the page has no style sheet")
		}
		hash := sha256.Sum256([]byte(sheet[1]))
		if want := "'sha256-" + base64.StdEncoding.EncodeToString(hash[:]) + "'"; !strings.Contains(w.Header().Get("Content-Security-Policy"), want) {
			t.Errorf("the policy %q does not allow the style sheet, %s", w.Header().Get("Content-Security-Policy"), want)
		}
		if bad := regexp.MustCompile(`(?i)<script|<link|<img|<form|<iframe| style=| on\w+=|url\(|@import|https?:`).FindString(w.Body.String()); bad != "" {
			t.Errorf("the page has %q", bad)
		}
	})
}

func TestMethods(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		get, head := r.ask(http.MethodGet, "/"), r.ask(http.MethodHead, "/")
		if get.Code != http.StatusOK || head.Code != http.StatusOK || head.Body.Len() != 0 {
			t.Errorf("GET %d; HEAD %d, %d bytes", get.Code, head.Code, head.Body.Len())
		}
		if n := strconv.Itoa(get.Body.Len()); get.Header().Get("Content-Length") != n || head.Header().Get("Content-Length") != n {
			t.Errorf("%s bytes: GET says %s, HEAD %s", n, get.Header().Get("Content-Length"), head.Header().Get("Content-Length"))
		}
		for _, method := range []string{"POST", "PUT", "DELETE", "PATCH", "OPTIONS"} {
			if w := r.ask(method, "/"); w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != "GET, HEAD" {
				t.Errorf("%s: %d, allowed is %q", method, w.Code, w.Header().Get("Allow"))
			}
		}
	})
}

// The page is sampled every ten seconds, whether anybody looks or not, and remembers an hour.
func TestHistory(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		if got := r.json().History; len(got) != 0 {
			t.Errorf("a page that was just made has a history: %+v", got)
		}
		time.Sleep(500 * time.Millisecond)
		r.read("k", 4)
		time.Sleep(time.Second)
		if h := r.json().History; len(h) != 1 || h[0].Hits != 3 || h[0].Misses != 1 || *h[0].HitRatio != 0.75 || h[0].Keys != 1 {
			t.Errorf("before the first sample, the history is %+v", h)
		}
		time.Sleep(10 * time.Second)
		r.read("k", 5)
		time.Sleep(10 * time.Second)
		h := r.json().History
		if len(h) != 3 || h[0].HitRatio == nil || *h[0].HitRatio != 0.75 || h[1].Hits != 5 || *h[1].HitRatio != 1 || h[2].HitRatio != nil {
			t.Errorf("after 21.5 s: %+v", h)
		}
		time.Sleep(2 * time.Hour)
		h = r.json().History
		if now := time.Now(); len(h) != 361 || now.Sub(h[0].From) > time.Hour+10*time.Second || !h[360].To.Equal(now) {
			t.Errorf("after two hours there are %d intervals from %v to %v", len(h), h[0].From, h[len(h)-1].To)
		}
		for i := 1; i < len(h); i++ {
			if !h[i].From.Equal(h[i-1].To) || h[i-1].To.Sub(h[i-1].From) != 10*time.Second {
				t.Fatalf("%+v comes after %+v", h[i], h[i-1])
			}
		}
	})
}

// An outage is drawn, and stays to be seen.
func TestHistoryShowsJeopardy(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		time.Sleep(time.Minute)
		if strings.Contains(r.html(), `class="deaf"`) {
			t.Error("a time without a lease is drawn, and there was none")
		}
		r.conn.Cut(memetcd.Both)
		time.Sleep(3 * time.Minute)
		r.conn.Heal()
		time.Sleep(time.Minute)
		if body := r.html(); !strings.Contains(body, `class="deaf"`) || !strings.Contains(body, "session valid") {
			t.Error("the time without a lease is not drawn")
		}
	})
}

// Close ends the goroutine, may come again, and leaves the page to be looked at.
func TestClose(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		time.Sleep(25 * time.Second)
		for range 2 {
			if err := r.page.Close(); err != nil {
				t.Error(err)
			}
		}
		time.Sleep(time.Minute)
		if h := r.json().History; len(h) != 3 || h[2].To.Sub(h[2].From) != 65*time.Second {
			t.Errorf("sampled after Close: %+v", h)
		}
		r.html()
	})
}

// Many may look at once, while the page is sampled and closed.
func TestConcurrentRequests(t *testing.T) {
	onRig(t, func(t *testing.T, r *rig) {
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for range 6 {
					time.Sleep(5 * time.Second)
					if w := r.ask(http.MethodGet, "/"); w.Code != http.StatusOK {
						t.Errorf("the page: %d %s", w.Code, w.Body)
					}
				}
			})
		}
		wg.Go(func() { time.Sleep(21 * time.Second); r.page.Close() }) // between two samples
		wg.Wait()
		if got := len(r.json().History); got != 3 {
			t.Errorf("%d intervals, want those up to Close and the one since", got)
		}
	})
}

// A session that has never been valid is not one that is lost.
func TestNotYetValid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := memetcd.New(memetcd.Options{})
		defer srv.Close()
		cl, conn := srv.Client("kv")
		conn.Deny(func(key, _ []byte, _ bool) bool { return strings.HasPrefix(string(key), "claims/") })
		r := &rig{t: t, srv: srv, conn: conn, kv: openKV(t, cl)}
		defer r.kv.Close()
		r.page = debug.New(r.kv)
		defer r.page.Close()
		r.read("k", 2)
		s := r.json()
		if s.Session.State != "none" || s.Session.Since != nil || s.Session.Why != "" || len(s.Leases) != 0 {
			t.Errorf("without rights on the claims: %+v", s)
		}
		if body := r.html(); !strings.Contains(body, `<strong id="state">not yet valid</strong>`) || strings.Contains(body, `id="why"`) {
			t.Error("the page does not say that the session is not yet valid, or says why")
		}
	})
}
