package integration_test

import (
	"context"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	cdppage "github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"

	"github.com/etcd-leasing/leasing"
	"github.com/etcd-leasing/leasing/debug"
	"github.com/etcd-leasing/leasing/integration/etcdtest"
)

// hostileKey would be a script if it were not escaped.
const hostileKey = "<script>document.title='x'</script>"

// The page of package debug in a real browser: it says what is, it can be read on a phone and in the dark, a
// key is nothing but text, and nothing is asked of anybody else.
func TestDebugPageInABrowser(t *testing.T) {
	program := findBrowser(t)
	etcd := etcdtest.Start(t, etcdtest.QuickTicks())
	kv := open(t, etcd.Client(0), longTTL)
	page := debug.New(kv)
	t.Cleanup(func() { page.Close() })
	srv := httptest.NewServer(page)
	t.Cleanup(srv.Close)
	pageTraffic(t, kv, open(t, etcd.Client(0), longTTL))

	b := newBrowser(t, program)
	b.visit(t, srv.URL+"/debug/leasing")
	t.Run("session", func(t *testing.T) { pageSession(t, b, kv) })
	t.Run("keys", func(t *testing.T) { pageKeys(t, b, kv) })
	t.Run("chart", func(t *testing.T) { pageChart(t, b, srv.URL) })
	t.Run("phone", func(t *testing.T) { pageOnAPhone(t, b) })
	t.Run("dark", func(t *testing.T) { pageInTheDark(t, b) })
	t.Run("refresh", func(t *testing.T) { pageRefresh(t, b, kv) })
	b.wantQuiet(t, srv.URL)
}

// pageTraffic reads keys that are awkward to show, and has the last of them taken over.
func pageTraffic(t *testing.T, kv, other *leasing.KV) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for i, key := range []string{"config/one", hostileKey, strings.Repeat("long-name/", 100), "\xff\x00"} {
		for range (4 - i) * 100 * 64 {
			if _, err := kv.Get(ctx, key); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := other.Put(ctx, "\xff\x00", "taken"); err != nil {
		t.Fatal(err)
	}
}

func pageSession(t *testing.T, b *browser, kv *leasing.KV) {
	for expr, want := range map[string]string{
		"document.title":                             "leasing: session valid",
		"document.documentElement.lang":              "en",
		"document.compatMode":                        "CSS1Compat",
		"document.querySelector('#state').innerText": "valid",
		"document.querySelector('#why').innerText":   kv.Standing().Why,
	} {
		if got := eval[string](t, b, expr); got != want {
			t.Errorf("%s is %q, want %q", expr, got, want)
		}
	}
	if got := eval[int](t, b, "document.querySelectorAll('#leases tbody td.n').length"); got != 2*len(kv.Leases()) {
		t.Errorf("%d figures of %d leases", got, len(kv.Leases()))
	}
}

// pageKeys compares both tables of keys with what the KV says. Nobody reads meanwhile.
func pageKeys(t *testing.T, b *browser, kv *leasing.KV) {
	hot, contended := kv.TopKeys(20)
	for i, want := range [][]leasing.KeyCount{hot, contended} {
		rows := eval[[][]string](t, b, `Array.from(document.querySelectorAll('table.keys')[`+strconv.Itoa(i)+`].tBodies[0].rows,
			r => [r.cells[0].querySelector('code').innerText, r.cells[0].querySelector('code').title, r.cells[1].innerText.replaceAll(',', '')])`)
		if len(rows) != len(want) || len(want) == 0 {
			t.Fatalf("table %d has %d rows, want %d", i, len(rows), len(want))
		}
		for j, k := range want {
			shown := k.Key
			switch {
			case k.Key == "\xff\x00":
				shown = `"\xff\x00"`
			case len(k.Key) > 100:
				shown = rows[j][0]
				if rows[j][1] != k.Key || len(shown) > 100 {
					t.Errorf("a long key is shown as %q, with the title %q", shown, rows[j][1])
				}
			}
			if rows[j][0] != shown || rows[j][2] != strconv.FormatUint(k.Count, 10) {
				t.Errorf("%q, %d times, is shown as %q, %s times", k.Key, k.Count, rows[j][0], rows[j][2])
			}
		}
	}
	if got := eval[int](t, b, "document.scripts.length"); got != 0 {
		t.Errorf("the page has %d scripts", got)
	}
	if !eval[bool](t, b, "document.body.innerText.includes("+strconv.Quote(hostileKey)+")") {
		t.Error("the hostile key cannot be read")
	}
}

// pageChart waits for the line, which takes a second from when the page was made.
func pageChart(t *testing.T, b *browser, origin string) {
	length := func() float64 { return eval[float64](t, b, "document.querySelector('#line').getTotalLength()") }
	for end := time.Now().Add(30 * time.Second); length() == 0 && time.Now().Before(end); {
		time.Sleep(200 * time.Millisecond)
		b.visit(t, origin)
	}
	if length() == 0 {
		t.Fatal("the chart has no line")
	}
	size := eval[[]float64](t, b, "(r => [r.width, r.height])(document.querySelector('#ratio').getBoundingClientRect())")
	if size[0] < 200 || size[1] < 100 {
		t.Errorf("the chart is %v pixels wide and high", size)
	}
	if got := eval[string](t, b, "getComputedStyle(document.querySelector('#line')).stroke"); got == "none" {
		t.Error("the style sheet does not apply")
	}
	if got := eval[string](t, b, "document.querySelector('#ratio-title').textContent"); !strings.HasPrefix(got, "Hit ratio") {
		t.Errorf("the chart is called %q", got)
	}
}

func pageOnAPhone(t *testing.T, b *browser) {
	b.do(t, chromedp.EmulateViewport(360, 740, chromedp.EmulateMobile))
	defer func() { b.do(t, chromedp.ResetViewport()) }()
	eval[bool](t, b, "document.querySelector('details').open = true")
	if got := eval[[]int](t, b, "[innerWidth, document.documentElement.scrollWidth]"); got[0] != 360 || got[1] > 360 {
		t.Errorf("on %d pixels the page is %d wide", got[0], got[1])
	}
}

func pageInTheDark(t *testing.T, b *browser) {
	const background = "getComputedStyle(document.body).backgroundColor"
	in := func(scheme string) string {
		b.emulate(t, "prefers-color-scheme", scheme)
		return eval[string](t, b, background)
	}
	light, dark := in("light"), in("dark")
	b.emulate(t, "prefers-color-scheme", "")
	if light == dark {
		t.Errorf("the background is %s in the dark, too", dark)
	}
}

// pageRefresh follows the link, after something has changed.
func pageRefresh(t *testing.T, b *browser, kv *leasing.KV) {
	const owned = "Array.from(document.querySelectorAll('.tile')).find(t => t.innerText.includes('Keys owned')).querySelector('.figure').innerText"
	before := eval[string](t, b, owned)
	if _, err := kv.Get(t.Context(), "another"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(b.ctx, time.Minute)
	defer cancel()
	click := chromedp.Click(chromedp.CSS("#refresh"))
	if _, err := chromedp.Run(ctx, chromedp.WaitEvent(cdppage.LoadEventFired, nil, click)); err != nil {
		t.Fatal(err)
	}
	if after := eval[string](t, b, owned); after == before {
		t.Errorf("the link does not refresh the page: still %s keys", after)
	}
}
