package proxy_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/etcd-leasing/leasing/integration/etcdtest"
)

// A client in another language, which knows nothing of us, finds an etcd.
func TestJavaScript(t *testing.T) {
	for _, program := range []string{"node", "npm"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("no JavaScript client is tested, as there is no %s: %v", program, err)
		}
	}
	dir := t.TempDir()
	for _, name := range []string{"package.json", "package-lock.json", "test.js"} {
		text, err := os.ReadFile(filepath.Join("testdata/js", name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	run := func(name string, args ...string) {
		t.Helper()
		cmd := exec.CommandContext(ctx, name, args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
	}
	run("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
	p := start(t, etcdtest.Start(t, etcdtest.QuickTicks()), inNamespace)
	run("node", "test.js", "http://"+p.addr)
	if p.KV().Stats().Hits == 0 {
		t.Error("nothing was read from memory")
	}
}
