package debug

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html/template"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/etcd-leasing/leasing"
)

// Page is an http.Handler that shows the state of a KV. It is safe for concurrent use. See the package
// documentation for who should not get to see it.
type Page struct {
	kv       *leasing.KV
	template *template.Template
	policy   string // the Content-Security-Policy of the page
	history  history

	closeOnce sync.Once
	closing   chan struct{}
	done      chan struct{} // closed when the goroutine has ended
}

var _ http.Handler = (*Page)(nil)

// New returns a page that shows kv. It starts a goroutine, which ends with Close: the hit ratio of the
// last hour is to be there when somebody looks for the first time. kv may be closed before the page, and
// is then shown as closed.
func New(kv *leasing.KV) *Page {
	hash := sha256.Sum256([]byte(style))
	p := &Page{
		kv:       kv,
		template: template.Must(template.New("page").Funcs(words()).Parse(page)),
		policy: "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(hash[:]) +
			"'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
		closing: make(chan struct{}),
		done:    make(chan struct{}),
	}
	p.history.add(sampleOf(kv.Stats(), time.Now()))
	go p.watch()
	return p
}

// Close ends the page's goroutine, and waits for that. It may be called more than once. The page can still
// be asked for, with a history that goes no further. The error is always nil.
func (p *Page) Close() error {
	p.closeOnce.Do(func() { close(p.closing) })
	<-p.done
	return nil
}

// watch samples the counters until the page is closed.
func (p *Page) watch() {
	defer close(p.done)
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			p.history.add(sampleOf(p.kv.Stats(), time.Now()))
		case <-p.closing:
			return
		}
	}
}

// ServeHTTP answers with the page or with JSON.
func (p *Page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", p.policy)
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Vary", "Accept")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		h.Set("Allow", "GET, HEAD")
		http.Error(w, "leasing: this page can only be read: use GET or HEAD, not "+strconv.Quote(r.Method), http.StatusMethodNotAllowed)
		return
	}
	a, err := askedFor(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	body, err := p.render(a)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	h.Set("Content-Type", a.contentType())
	h.Set("Content-Length", strconv.Itoa(len(body)))
	if r.Method == http.MethodGet {
		_, _ = w.Write(body) // who asked may have left
	}
}

// render returns the answer. It is whole before the first byte is sent.
func (p *Page) render(a ask) ([]byte, error) {
	rep := p.report(time.Now())
	var b bytes.Buffer
	var err error
	if a.json {
		enc := json.NewEncoder(&b)
		enc.SetIndent("", "  ")
		err = enc.Encode(rep)
	} else {
		err = p.template.Execute(&b, newView(rep, a.refresh))
	}
	if err != nil {
		return nil, fmt.Errorf("leasing: cannot write the state down: %w", err)
	}
	return b.Bytes(), nil
}
