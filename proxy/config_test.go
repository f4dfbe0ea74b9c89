package proxy

import (
	"strings"
	"testing"

	"github.com/etcd-leasing/leasing"
)

// Key spaces that would not keep apart what belongs apart are refused.
func TestKeySpaces(t *testing.T) {
	for ns, says := range map[string]string{
		"": "", "app/": "", "app\xff/": "",
		"app\xff": "0xff", "leas": "in the namespace", "leasing/app/": "under the claim prefix",
	} {
		_, err := Config{Endpoints: []string{"a"}, Namespace: ns, Leasing: leasing.Config{Prefix: "leasing/"}}.validate()
		if (err != nil) != (says != "") || err != nil && !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v", ns, err)
		}
	}
}
