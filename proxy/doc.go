// Package proxy is a gRPC proxy before etcd.
package proxy
