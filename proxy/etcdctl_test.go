package proxy_test

import (
	"bufio"
	"bytes"
	"context"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/etcd-leasing/leasing/integration/etcdtest"
	"github.com/etcd-leasing/leasing/proxy"
)

// command is one that etcdctl is given. {name} in its words stands for what an earlier
// command has shown, {dir} for a directory.
type command struct {
	words string
	input string
	shows string // a name for the first number after `revision":` or `lease ` in the output
	until string // the command is ended when its output has this; else it ends by itself
	loose bool   // numbers in the output say how the server is, and are not compared
}

// etcdctl is the program, told to talk to one endpoint.
type etcdctl struct {
	t        *testing.T
	program  string
	endpoint string
	shown    map[string]string
}

// buildEtcdctl returns the path of the program.
func buildEtcdctl(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "etcdctl")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", path, "go.etcd.io/etcd/etcdctl/v3")
	build.Dir = "testdata/etcdctl"
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building etcdctl: %v\n%s", err, out)
	}
	return path
}

// run runs a command and returns what it said, without what differs from server to
// server.
func (e *etcdctl) run(c command) string {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(e.t.Context(), 20*time.Second)
	defer cancel()
	for name, value := range e.shown {
		c.words, c.input = strings.ReplaceAll(c.words, "{"+name+"}", value), strings.ReplaceAll(c.input, "{"+name+"}", value)
	}
	cmd := exec.CommandContext(ctx, e.program, append([]string{"--endpoints", e.endpoint}, split(c.words)...)...)
	cmd.Stdin = strings.NewReader(c.input)
	var out bytes.Buffer
	if c.until == "" {
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Run(); err != nil {
			out.WriteString(err.Error())
		}
	} else {
		e.runUntil(cmd, c.until, &out)
	}
	if c.shows != "" {
		m := shown.FindStringSubmatch(out.String())
		if m == nil {
			e.t.Fatalf("%s shows neither a revision nor a lease: %s", c.words, &out)
		}
		e.shown[c.shows] = m[1]
	}
	return e.normal(out.String(), c.loose)
}

var shown = regexp.MustCompile(`(?:"revision":|lease )([0-9a-f]+)`)

func (e *etcdctl) runUntil(cmd *exec.Cmd, until string, out *bytes.Buffer) {
	e.t.Helper()
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		e.t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		e.t.Fatal(err)
	}
	for lines := bufio.NewScanner(pipe); !strings.Contains(out.String(), until) && lines.Scan(); {
		out.WriteString(lines.Text() + "\n")
	}
	cmd.Process.Kill()
	cmd.Wait()
}

// split splits words at blanks that are not within quotes.
func split(s string) (words []string) {
	for i, part := range strings.Split(s, "'") {
		if i%2 == 1 {
			words = append(words, part)
		} else {
			words = append(words, strings.Fields(part)...)
		}
	}
	return words
}

var (
	numbers  = regexp.MustCompile(`"?(Revision|revision|create_revision|mod_revision|raft_term|cluster_id|member_id|lease|ID|Lease|CreateRevision|ModRevision|RaftTerm|ClusterID|MemberID|id|auth_revision|authRevision|AuthRevision|compacted revision)"?(?: ?:)? ?\d+`)
	ids      = regexp.MustCompile(`\b[0-9a-f]{15,16}\b`)
	took     = regexp.MustCompile(`(took|Took)[ =]+[0-9.]+[a-zµ]+`)
	stamps   = regexp.MustCompile(`"ts":"[^"]*"`)
	peers    = regexp.MustCompile(`"(target|peer|caller)":"[^"]*"`)
	digits   = regexp.MustCompile(`[0-9][0-9.]*( [kMG]?B)?`)
	remains  = regexp.MustCompile(`remaining\(\d+s\)`)
	blanks   = regexp.MustCompile(`[ ─]+`)
	attempts = regexp.MustCompile(`(?m)^\{"level":"warn".*\n`)
)

func (e *etcdctl) normal(s string, loose bool) string {
	if !loose {
		s = strings.ReplaceAll(s, e.endpoint, "ENDPOINT")
	}
	s = strings.ReplaceAll(s, e.shown["dir"], "DIR")
	s = attempts.ReplaceAllString(s, "")
	s = ids.ReplaceAllString(s, "ID")
	s = numbers.ReplaceAllString(s, "$1:N")
	s = took.ReplaceAllString(s, "took T")
	s = stamps.ReplaceAllString(s, "")
	s = peers.ReplaceAllString(s, "")
	s = remains.ReplaceAllString(s, "remaining(T)")
	if loose {
		s = blanks.ReplaceAllString(digits.ReplaceAllString(s, "N"), " ")
	}
	return s
}

// script is every command of etcdctl that has to do with data, and most that do not.
func script() []command {
	return []command{
		{words: "put d/a 1 -w json", shows: "r1"},
		{words: "put d/a 2 --prev-kv"},
		{words: "put d/b", input: "from standard input"},
		{words: "put d/c 3 -w json", shows: "r3"},
		{words: "put d/c 4 -w fields"},
		{words: "put d/none --ignore-value"},
		{words: "put d/c --ignore-value"},
		{words: "put '' x"},
		{words: "get d/a"}, {words: "get d/a"}, {words: "get d/a"},
		{words: "get d/a --hex"}, {words: "get d/a -w json"}, {words: "get d/a -w fields"}, {words: "get d/a -w table"},
		{words: "get d/a --print-value-only"}, {words: "get d/a --keys-only"}, {words: "get d/a --count-only"}, {words: "get d/a --count-only -w fields"},
		{words: "get d/a --consistency s"}, {words: "get d/a --consistency l"}, {words: "get d/a --consistency x"},
		{words: "get d/a --rev {r1}"}, {words: "get d/a --rev 100000"}, {words: "get d/none"},
		{words: "get d/ --prefix"}, {words: "get d/ --prefix --limit 2"}, {words: "get d/ --prefix --keys-only"}, {words: "get d/ --prefix --count-only -w json"},
		{words: "get d/ --prefix --order DESCEND"}, {words: "get d/ --prefix --sort-by VALUE --order ASCEND"}, {words: "get d/ --prefix --sort-by VERSION --order DESCEND"},
		{words: "get d/ --prefix --sort-by CREATE"}, {words: "get d/ --prefix --sort-by MODIFY --order DESCEND"}, {words: "get d/ --prefix --sort-by KEY --order X"},
		{words: "get d/ --prefix --rev {r1} -w json"}, {words: "get d/ --prefix --min-mod-rev {r3} --keys-only"}, {words: "get d/ --prefix --max-create-rev {r1} --keys-only"},
		{words: "get d/b --from-key --limit 2"}, {words: "get d/a d/c"}, {words: "get d/a d/c --prefix"}, {words: "get"}, {words: "get ''"},

		{words: "txn", input: "value(\"d/a\") = \"2\"\n\nput d/t yes\nget d/a\n\nput d/t no\n\n"},
		{words: "txn", input: "value(\"d/a\") = \"7\"\n\nput d/t yes\n\nget d/t\ndel d/b\n\n"},
		{words: "txn", input: "mod(\"d/t\") > \"0\"\nversion(\"d/t\") = \"1\"\ncreate(\"d/none\") = \"0\"\n\nget d/t\n\n\n"},
		{words: "txn -w json", input: "\nget d/a\nget d/ --prefix --count-only\n\n\n"},
		{words: "txn", input: "\nput d/x 1\nput d/x 2\n\n\n"},
		{words: "txn --interactive", input: "ver(\"d/a\") > \"0\"\n\nget d/a\n\n\n"},
		{words: "txn", input: "nonsense\n\n\n\n"},

		{words: "watch d/a --rev {r1}", until: "2\n"}, {words: "watch d/ --prefix --rev {r1}", until: "yes"}, {words: "watch d/a d/c --rev {r1} --prev-kv", until: "from standard input"},
		{words: "watch d/a --rev {r1} -w json", until: "Mg=="},
		{words: "watch d/a --rev {r1} -- sh -c 'echo saw $ETCD_WATCH_KEY $ETCD_WATCH_VALUE $ETCD_WATCH_EVENT_TYPE'", until: "saw \"d/a\" \"2\""},
		{words: "watch --interactive", input: "watch d/a --rev {r1}\n", until: "2\n"},

		{words: "del d/x"}, {words: "del d/t --prev-kv"}, {words: "put d/r1 x"}, {words: "put d/r2 x"}, {words: "del d/r --prefix"},
		{words: "put d/r1 x"}, {words: "put d/r2 x"}, {words: "del d/r1 d/r3 --prev-kv"}, {words: "put d/z x"}, {words: "del d/z --from-key --range"}, {words: "del d/z e"}, {words: "del"}, {words: "del ''"},

		{words: "lease grant 100", shows: "l"}, {words: "put d/leased x --lease {l}"}, {words: "get d/leased"}, {words: "get d/leased"},
		{words: "put d/leased y --ignore-lease"}, {words: "lease timetolive {l}"}, {words: "lease timetolive {l} --keys"}, {words: "lease timetolive 77"},
		{words: "lease keep-alive {l} --once"}, {words: "lease keep-alive 77 --once"}, {words: "lease revoke {l}"}, {words: "get d/leased"}, {words: "lease revoke 77"},
		{words: "put d/leased x --lease 77"}, {words: "lease grant x"},

		{words: "lock d/lock echo held"}, {words: "lock d/lock", until: "d/lock/"}, {words: "elect d/post me", until: "me"}, {words: "elect -l d/post", until: "me"},

		{words: "compaction {r3}"}, {words: "compaction {r3}"}, {words: "compact {r3} --physical"}, {words: "get d/a --rev {r1}"}, {words: "watch d/a --rev {r1}", until: "compacted"},

		{words: "member list", loose: true}, {words: "member list -w json", loose: true}, {words: "member remove 77"}, {words: "endpoint status", loose: true}, {words: "endpoint status -w json", loose: true},
		{words: "endpoint health"}, {words: "endpoint hashkv", loose: true}, {words: "alarm list"}, {words: "alarm disarm"}, {words: "defrag"}, {words: "snapshot save {dir}/snapshot", loose: true},
		{words: "downgrade validate 3.6"}, {words: "move-leader 77"},

		{words: "auth status"}, {words: "role add r"}, {words: "role grant-permission r readwrite d/ --prefix"}, {words: "role grant-permission r readwrite app/d/ --prefix"},
		{words: "role grant-permission r readwrite leasing/ --prefix"}, {words: "role get r"}, {words: "role list"}, {words: "role add r"},
		{words: "user add root:root"}, {words: "user add alice:alice"}, {words: "user add bob --interactive=false", input: "bob\n"}, {words: "user grant-role root root"},
		{words: "user grant-role alice r"}, {words: "user get alice --detail"}, {words: "user list"}, {words: "user passwd bob --interactive=false", input: "bobby\n"},
		{words: "auth enable"},
		{words: "get d/a"}, {words: "put d/a x"}, {words: "--user alice:alice get d/a"}, {words: "--user alice:alice get d/a"}, {words: "--user bob:bobby get d/a"},
		{words: "--user alice:wrong get d/a"}, {words: "--user alice:alice put d/a 5"}, {words: "--user bob:bobby put d/a 6"}, {words: "--user alice --password alice get d/ --prefix"},
		{words: "--user alice:alice txn", input: "value(\"d/a\") = \"5\"\n\nput d/t auth\n\nget d/t\n\n"}, {words: "--user bob:bobby txn", input: "\nget d/a\n\n\n"},
		{words: "--user alice:alice watch d/a --rev {r3} -w json", until: "NQ=="}, {words: "--user alice:alice user list"}, {words: "--user alice:alice compaction 5"},
		{words: "--user root:root role revoke-permission r d/ --prefix"}, {words: "--user root:root role revoke-permission r app/d/ --prefix"}, {words: "--user alice:alice get d/b"},
		{words: "--user root:root user revoke-role alice r"}, {words: "--user root:root role delete r"}, {words: "--user root:root user delete alice"}, {words: "--user root:root user list"},
		{words: "--user root:root auth disable"}, {words: "get d/a"}, {words: "auth status"},
	}
}

// Every command says through the proxy what it says to etcd.
func TestEtcdctl(t *testing.T) {
	const bound = time.Second
	program := buildEtcdctl(t)
	for name, change := range map[string]func(*proxy.Config){"bare": func(*proxy.Config) {}, "in a namespace": inNamespace} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			plain, behind := etcdtest.Start(t, etcdtest.QuickTicks()), etcdtest.Start(t, etcdtest.QuickTicks())
			p := start(t, behind, asRoot, bounded(bound), change)
			direct := &etcdctl{t, program, strings.TrimPrefix(plain.Endpoint(0), "http://"), map[string]string{"dir": t.TempDir()}}
			through := &etcdctl{t, program, p.addr, map[string]string{"dir": t.TempDir()}}
			for _, c := range script() {
				want, got := direct.run(c), through.run(c)
				if c.words == "auth enable" {
					time.Sleep(bound) // until then reads may be answered from memory
				}
				if want != got {
					t.Errorf("etcdctl %s:\n%s\nand straight to etcd:\n%s", c.words, got, want)
				}
			}
			if p.KV().Stats().Hits == 0 {
				t.Error("nothing was read from memory")
			}
		})
	}
}
