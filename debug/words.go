package debug

import (
	"strconv"
	"strings"
	"time"
)

// count writes a number as 1,234,567.
func count(n uint64) string {
	s := strconv.FormatUint(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// percent does not round up to 100 what is not.
func percent(r *float64) string {
	if r == nil {
		return "–"
	}
	p := float64(int(*r*1000)) / 10
	return strconv.FormatFloat(p, 'f', -1, 64) + " %"
}

func size(n int64) string {
	f, unit := float64(n), "B"
	for _, u := range []string{"kB", "MB", "GB"} {
		if f < 1000 {
			break
		}
		f, unit = f/1000, u
	}
	return strconv.FormatFloat(f, 'g', 3, 64) + " " + unit
}

// human writes seconds as a person would: 250 µs, 1.5 s, 1h2m3s.
func human(s *float64) string {
	if s == nil {
		return "–"
	}
	for _, unit := range []struct {
		name  string
		below float64
		scale float64
	}{{"µs", 1e-3, 1e6}, {"ms", 1, 1e3}, {"s", 60, 1}} {
		if *s < unit.below {
			return strconv.FormatFloat(*s*unit.scale, 'g', 3, 64) + " " + unit.name
		}
	}
	return time.Duration(*s * float64(time.Second)).Round(time.Second).String()
}

const (
	maxShown = 80       // characters of a key
	maxTitle = 16 << 10 // bytes of a key that is shortened, in its title
)

// shownKey is a key for people.
type shownKey struct {
	Text  string
	Title string // the key at full length, if it is shortened
	Bytes int    // its length, if it is shortened
}

// shown makes a key readable. What cannot be printed is escaped as in Go, and then the key is in quotes.
func shown(key string) shownKey {
	full := key[:min(len(key), maxTitle)]
	if q := strconv.Quote(full); q != `"`+full+`"` || full != strings.TrimSpace(full) || full == "" {
		full = q
	}
	chars := []rune(full)
	if len(chars) <= maxShown {
		return shownKey{Text: full}
	}
	if len(key) > maxTitle {
		full += "…"
	}
	const tail = maxShown / 4
	short := string(chars[:maxShown-tail]) + "…" + string(chars[len(chars)-tail:])
	return shownKey{Text: short, Title: full, Bytes: len(key)}
}
