package memetcd

// keyRange is the set of keys that a request names: one key, an interval, or all keys from one on.
type keyRange struct {
	key  string
	end  string // exclusive; unused if one or open
	one  bool   // just key
	open bool   // no upper end
}

// requestRange reads a key and a range_end as they stand in a request: no end is a single key, and the
// end "\x00" is no end at all.
func requestRange(key, rangeEnd []byte) keyRange {
	r := keyRange{key: string(key), end: string(rangeEnd)}
	switch r.end {
	case "":
		r.one = true
	case "\x00":
		r.open = true
	}
	return r
}

func (r keyRange) contains(key string) bool {
	if r.one {
		return key == r.key
	}
	return key >= r.key && (r.open || key < r.end)
}
