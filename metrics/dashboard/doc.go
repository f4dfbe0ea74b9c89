// Package dashboard holds the tests of the Grafana dashboard, docs/grafana.json, and of
// the PromQL in the documentation of package metrics. It is a module of its own, as they
// need the parser of the Prometheus server, on which nobody else is to depend.
package dashboard
