package proxy

import (
	"context"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// calls counts the requests of callers, by the names and labels that the metrics of gRPC
// servers usually have. The library for these looks four counters up for each
// request, at 6 % of the time that a read from memory takes here; this one looks them
// up once for each method.
type calls struct {
	started, handled, received, sent *prometheus.CounterVec

	methods sync.Map // to *method, by full name
}

// method is what is counted of one method.
type method struct {
	labels                  []string
	started, received, sent prometheus.Counter
	ok                      prometheus.Counter // those handled that have not failed
}

var _ prometheus.Collector = (*calls)(nil)

func newCalls() *calls {
	counter := func(name, help string, more ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help},
			append([]string{"grpc_type", "grpc_service", "grpc_method"}, more...))
	}
	return &calls{
		started:  counter("grpc_server_started_total", "Calls that have begun."),
		handled:  counter("grpc_server_handled_total", "Calls that are over, by how they ended.", "grpc_code"),
		received: counter("grpc_server_msg_received_total", "Messages that came from callers."),
		sent:     counter("grpc_server_msg_sent_total", "Messages that went to callers."),
	}
}

func (c *calls) vectors() []*prometheus.CounterVec {
	return []*prometheus.CounterVec{c.started, c.handled, c.received, c.sent}
}

// Describe sends what there is to be collected.
func (c *calls) Describe(ch chan<- *prometheus.Desc) {
	for _, v := range c.vectors() {
		v.Describe(ch)
	}
}

// Collect sends what was counted.
func (c *calls) Collect(ch chan<- prometheus.Metric) {
	for _, v := range c.vectors() {
		v.Collect(ch)
	}
}

// of returns the counters of a method, whose full name is "/service/method".
func (c *calls) of(name, kind string) *method {
	if m, ok := c.methods.Load(name); ok {
		return m.(*method)
	}
	service, last, _ := strings.Cut(strings.TrimPrefix(name, "/"), "/")
	labels := []string{kind, service, last}
	m, _ := c.methods.LoadOrStore(name, &method{
		labels, c.started.WithLabelValues(labels...), c.received.WithLabelValues(labels...), c.sent.WithLabelValues(labels...),
		c.handled.WithLabelValues(kind, service, last, codes.OK.String()),
	})
	return m.(*method)
}

// over counts the end of a call.
func (c *calls) over(m *method, err error) {
	if err == nil {
		m.ok.Inc()
		return
	}
	code := status.Code(err).String()
	c.handled.WithLabelValues(m.labels[0], m.labels[1], m.labels[2], code).Inc()
}

func (c *calls) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	m := c.of(info.FullMethod, "unary")
	m.started.Inc()
	m.received.Inc()
	resp, err := handle(ctx, req)
	if err == nil {
		m.sent.Inc()
	}
	c.over(m, err)
	return resp, err
}

func (c *calls) stream(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	m := c.of(info.FullMethod, kindOf(info))
	m.started.Inc()
	err := handle(srv, countedStream{s, m})
	c.over(m, err)
	return err
}

// kindOf is what the label grpc_type says of a stream.
func kindOf(info *grpc.StreamServerInfo) string {
	switch {
	case info.IsClientStream && info.IsServerStream:
		return "bidi_stream"
	case info.IsClientStream:
		return "client_stream"
	}
	return "server_stream"
}

// countedStream counts the messages of a stream.
type countedStream struct {
	grpc.ServerStream
	*method
}

func (s countedStream) RecvMsg(m any) error {
	err := s.ServerStream.RecvMsg(m)
	if err == nil {
		s.received.Inc()
	}
	return err
}

func (s countedStream) SendMsg(m any) error {
	err := s.ServerStream.SendMsg(m)
	if err == nil {
		s.sent.Inc()
	}
	return err
}
