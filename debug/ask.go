package debug

import (
	"fmt"
	"mime"
	"net/http"
	"strconv"
	"strings"
)

// ask is what somebody has asked for.
type ask struct {
	json    bool
	refresh int // seconds after which a browser is to ask again; 0 is never
}

func (a ask) contentType() string {
	if a.json {
		return "application/json"
	}
	return "text/html; charset=utf-8"
}

const maxRefresh = 3600

// askedFor reads a request. What the address says goes before what Accept says.
func askedFor(r *http.Request) (a ask, err error) {
	q := r.URL.Query()
	switch format := q.Get("format"); format {
	case "":
		a.json = prefersJSON(r.Header.Values("Accept"))
	case "json":
		a.json = true
	case "html":
	default:
		return a, fmt.Errorf("leasing: there is no format %q: use json or html", format)
	}
	if s := q.Get("refresh"); s != "" {
		a.refresh, err = strconv.Atoi(s)
		if err != nil || a.refresh < 1 || a.refresh > maxRefresh {
			return a, fmt.Errorf("leasing: cannot refresh after %q: use seconds, from 1 to %d", s, maxRefresh)
		}
	}
	return a, nil
}

// prefersJSON reports whether JSON is named in Accept, and is liked better than HTML. Who takes anything
// gets HTML.
func prefersJSON(accept []string) bool {
	var json, html float64
	for part := range strings.SplitSeq(strings.Join(accept, ","), ",") {
		kind, params, err := mime.ParseMediaType(part)
		if err != nil {
			continue
		}
		like := 1.0
		if q, ok := params["q"]; ok {
			if like, err = strconv.ParseFloat(q, 64); err != nil {
				continue
			}
		}
		switch kind {
		case "application/json":
			json = like
		case "text/html", "application/xhtml+xml":
			html = max(html, like)
		}
	}
	return json > html
}
