// Package metrics tells Prometheus what a [leasing.KV] has done, and how it stands:
// everything in its [leasing.Stats]. It is a module of its own, so that package
// leasing does not depend on Prometheus.
//
//	registry := prometheus.NewRegistry()
//	if err := registry.Register(metrics.NewCollector(kv)); err != nil {
//		log.Fatal(err)
//	}
//	http.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
//
// Two KVs of one process are told apart by a label: see [ConstLabels].
//
// A Grafana dashboard for these metrics is docs/grafana.json in the repository.
//
// Until there is a release, a module that uses a clone takes both modules from there:
//
//	go mod edit -replace github.com/etcd-leasing/leasing=../leasing
//	go mod edit -replace github.com/etcd-leasing/leasing/metrics=../leasing/metrics
//
// # Metrics
//
// Counters begin at 0 with the KV. Every metric is there at every scrape, with all
// reasons and outcomes, also with those that never came. Two counters of one scrape may
// differ by what was under way.
//
//	leasing_hits_total              gets, and transactions, that were answered from memory
//	leasing_forwards_total          reads that were sent to etcd, by reason
//
//	leasing_writes_total            puts, deletions and writing transactions that were applied
//	leasing_takeovers_total         those of them that had to wait for another owner
//	leasing_gave_up_total           writes that ended with an error after they had to wait for another owner
//	leasing_takeover_wait_seconds   how long the takeovers took; a histogram
//	leasing_unknown_outcomes_total  writes of which it is not known whether they were applied
//
//	leasing_entries                 keys that are owned
//	leasing_bytes                   about how much memory they take: see Config.MaxBytes
//	leasing_claims_total            keys that were to be claimed, by outcome
//	leasing_claim_seconds           how long reads waited for a claim, which many may share; a histogram
//	leasing_revokes_sent_total      keys that other owners were asked for
//	leasing_revokes_answered_total  keys of this KV that others asked for
//	leasing_yields_total            claims of this KV that were given back, confirmed; not those that went
//	                                with their leases, as all do at Close
//	leasing_evictions_total         keys given up because of Config.MaxKeys or Config.MaxBytes
//	leasing_idle_total              keys given up because of Config.IdleTimeout
//	leasing_lost_total              owned keys whose claim somebody deleted, or whose lease was over or was
//	                                given up with the session, as the watch was silent; not at Close
//	leasing_strangers_total         owned keys that a stranger wrote: see Config.WatchData
//
//	leasing_leases                  live leases that claims hang on
//	leasing_to_deadline_seconds     until the first of them is over if it is not renewed; 0 without one
//	leasing_round_trip_seconds      how long the latest renewal of a lease took; 0 before the first
//	leasing_watch_restarts_total    how often the watch on the claims had to be made anew
//	leasing_events_lost_total       events that Config.OnEvent was not told of
//
// The reasons of leasing_forwards_total:
//
//	kind        ranges, streams, historical reads and the like, and those of KV.Uncached, which
//	            are always sent. Of the proxy these are also the first reads under each token
//	foreign     somebody else owns the key
//	resting     the key was given back, or refused, a short time ago
//	writing     a write of this KV to the key is under way
//	no_session  nothing could be claimed: no lease, no watch, or etcd does not answer claims
//	seldom      the key was not read often enough to be claimed: see Config.ClaimAfter
//	claim       the claim came to nothing, or its reply could not be shared
//
// The outcomes of leasing_claims_total:
//
//	made        the key is this KV's
//	foreign     somebody else has the key
//	refused     the key carries a lease of its own, or etcd gave an error
//	dropped     it was not sent, as nothing is claimed at the time
//	unknown     it is not known whether it was made; then the claim is deleted
//
// # Hit ratio
//
// The share of hits in hits and misses, which are those of [leasing.Stats.Misses]: reads
// that were sent to etcd, but for the kind that always is, and claims.
//
//	sum by (instance) (rate(leasing_hits_total[5m]))
//	  / (sum by (instance) (rate(leasing_hits_total[5m]))
//	    + sum by (instance) (rate(leasing_forwards_total{reason!="kind"}[5m]))
//	    + sum by (instance) (rate(leasing_claims_total{outcome="made"}[5m])))
//
// # Alerts
//
// Rules for Prometheus are docs/alerts.yaml in the repository. What each means, and what
// to look at then, is in docs/operating.md.
//
// After Close of a KV its counters stay as they are and leasing_to_deadline_seconds is 0,
// as without a session: unregister its collector.
package metrics
