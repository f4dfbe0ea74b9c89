package main

import (
	"strings"
	"testing"
)

const golden = `# Scoreboard

One suite of black-box checks, one row a check, run on three contenders: etcd's plain client, etcd's own leasing package and
this library. Each cell has a process and an embedded etcd of its own, and the contenders get the same options. The plain
client says what is right; rows that make no sense for it have a – there. What this library is known to fail stands here, too.

A key is *owned* if the KV that acts owns it, *foreign* if another KV does. A *commit* is an entry in the log of etcd.

Made by ` + "`make scoreboard`" + ` on 2026-01-02, with

- etcd 1
- a client

## Rows passed

| group | plain client | etcd's leasing | this library |
|---|---|---|---|
| one | 1 of 1 | 1 of 2 | 1 of 2 |
| two | – | 0 of 1 | 1 of 1 |
| **all** | 1 of 1 | 1 of 3 | 2 of 3 |

## one

| what must hold | plain client | etcd's leasing | this library |
|---|---|---|---|
| A is \| B | ✓ 1 \| 2 | ✓ | ✗ 3 |
| Leased | – | ✗ hangs | ✓ |

What fails:

- this library, *A is | B*: ` + "`it is 'C'`" + ` (known: a limit)
- etcd's leasing, *Leased*: ` + "`it does not end`" + `

## two

| what must hold | plain client | etcd's leasing | this library |
|---|---|---|---|
| Fine | – | ✗ | ✓ |

What fails:

- etcd's leasing, *Fine*: ` + "`no`" + `
`

func TestDocument(t *testing.T) {
	ok := result{Outcome: passed}
	d := document{date: "2026-01-02", versions: []string{"etcd 1", "a client"}, rows: []*row{
		{group: "one", name: "A is | B", known: "a limit", results: [3]result{{passed, "1 | 2", ""}, ok, {failed, "3", "it is `C`"}}},
		{group: "one", name: "Leased", results: [3]result{{Outcome: skipped}, {failed, "hangs", "it does not end"}, ok}},
		{group: "two", name: "Fine", results: [3]result{{Outcome: skipped}, {failed, "", "no"}, ok}},
	}}
	var got strings.Builder
	d.render(&got)
	if got.String() != golden {
		t.Errorf("got\n%s\nwant\n%s", got.String(), golden)
	}
}

func TestOneLine(t *testing.T) {
	got := oneLine("dial 127.0.0.1:2379:\n\trefused by 0xc000123 " + strings.Repeat("é", 300))
	if want := "dial 127.0.0.1: refused by 0x… "; !strings.HasPrefix(got, want) || !strings.HasSuffix(got, "é…") || len([]rune(got)) != longest+1 {
		t.Errorf("got %q", got)
	}
}
