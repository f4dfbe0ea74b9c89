// Package debug shows the state of a [leasing.KV] over HTTP: as a page for people, and as JSON for
// programs.
//
// Nothing is shown unless a [Page] is made and mounted:
//
//	page := debug.New(kv)
//	defer page.Close()
//	http.Handle("/debug/leasing", page)
//
// Keys may be sensitive: the page names those that are read, and asked for by others, most. It asks
// nobody who they are. Mount it where only operators get, behind an authentication of your own, and
// never on a public port. Values are never shown.
//
// # What is shown
//
// The session (valid, in jeopardy, lost, or not yet valid; since when, and why), its leases, the hit
// ratio of the last hour, reads that were sent to etcd by reason, claims by outcome, writes, keys that
// changed hands, how long claims and takeovers took, and the 20 hottest and 20 most contended keys. All
// of it is what the KV knows, so the page also works while etcd is away, and after the KV's Close.
// Counters are those of [leasing.Stats], since the KV was made.
//
// The hit ratio is the share of hits in hits and [leasing.Stats.Misses]. Readers who share one claim count
// as one miss.
//
// # Asking for it
//
// JSON goes to who asks with ?format=json, or prefers application/json in Accept; everybody else gets the
// page. ?refresh=N makes a browser ask again every N seconds, from 1 to 3600. There are GET and HEAD. The
// path does not matter. The page needs no script and nothing from elsewhere, and says so in a
// Content-Security-Policy.
//
// # The JSON
//
// Names of fields bear their unit. The field version is 1; fields may be added to it, but never change
// their name or meaning. What is not known is null: a ratio of no reads, a quantile of no durations, since
// when. A key that is not valid UTF-8 has its bytes in key_base64, and in key something like it. A
// bucket of a histogram counts durations of at most up_to_seconds and more than the bucket before; the
// last has no bound, null. Quantiles are estimates, exact to their bucket; one in the last bucket is the
// bound before it.
//
// # Costs
//
// A Page has one goroutine, which reads the counters every 10 s, and 20 kB for an hour of them. A request
// costs about two milliseconds of processor time and up to 100 kB for its answer, more if keys are long. It
// takes the KV's locks for a few field reads, once and once more for each lease, and sends nothing to
// etcd.
package debug
