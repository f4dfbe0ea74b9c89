// Package dashboard holds the tests of the Grafana dashboard, docs/grafana.json, of the
// alerts, docs/alerts.yaml, and of the PromQL in the documentation of package metrics. It
// is a module of its own, as they need the parsers of the Prometheus server, on which
// nobody else is to depend.
package dashboard
