package debug_test

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/etcd-leasing/leasing"
	"github.com/etcd-leasing/leasing/debug"
	"github.com/etcd-leasing/leasing/internal/memetcd"
)

// Mount the page where only operators get.
func Example() {
	srv := memetcd.New(memetcd.Options{}) // in place of a real etcd
	defer srv.Close()
	kv, err := leasing.New(context.Background(), srv.NewClient("example"), leasing.Config{Prefix: "leasing/"})
	if err != nil {
		log.Fatal(err)
	}
	defer kv.Close()

	page := debug.New(kv)
	defer page.Close()
	mux := http.NewServeMux() // of operators, behind an authentication
	mux.Handle("/debug/leasing", page)

	w := httptest.NewRecorder() // a browser
	mux.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/debug/leasing", nil))
	_, after, _ := strings.Cut(w.Body.String(), "<title>")
	title, _, _ := strings.Cut(after, "</title>")
	fmt.Println(w.Code, title)
	// Output: 200 leasing: session valid
}
