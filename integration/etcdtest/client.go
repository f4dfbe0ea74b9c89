package etcdtest

import (
	"context"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

// The user that may do everything; see [Auth].
const (
	RootName     = "root"
	RootPassword = "root"
)

// ClientOption changes the configuration of a client. Any function of that
// type will do.
type ClientOption func(*clientv3.Config)

// As makes the client another user than root; see [Auth].
func As(name, password string) ClientOption {
	return func(cfg *clientv3.Config) { cfg.Username, cfg.Password = name, password }
}

// Intercept lets f see, and change or refuse, each unary request of the client
// below clientv3, which sends some requests again when they fail.
func Intercept(f grpc.UnaryClientInterceptor) ClientOption {
	return func(cfg *clientv3.Config) {
		cfg.DialOptions = append(cfg.DialOptions, grpc.WithChainUnaryInterceptor(f))
	}
}

// Client returns a new plain client of member i. The cluster closes it.
func (c *Cluster) Client(i int, opts ...ClientOption) *clientv3.Client {
	if c.tb != nil {
		c.tb.Helper()
	}
	cl, err := c.NewClient([]string{c.Endpoint(i)}, opts...)
	c.must(err)
	return cl
}

// ClientVia returns a new plain client of the member behind the relay. The
// cluster closes it.
func (c *Cluster) ClientVia(relay *Relay, opts ...ClientOption) *clientv3.Client {
	if c.tb != nil {
		c.tb.Helper()
	}
	cl, err := c.NewClient([]string{relay.URL()}, opts...)
	c.must(err)
	return cl
}

// NewClient returns a new plain client of any endpoints, with the credentials
// that the cluster asks for. It tries to connect again more often than clients
// do by default, and it is silent. The cluster closes it, if nobody did.
func (c *Cluster) NewClient(endpoints []string, opts ...ClientOption) (*clientv3.Client, error) {
	cfg := c.clientConfig(endpoints)
	if c.opts.auth {
		cfg.Username, cfg.Password = RootName, RootPassword
	}
	for _, opt := range opts {
		opt(&cfg)
	}
	cl, err := clientv3.New(cfg)
	if err != nil {
		return nil, err
	}
	if err := c.onClose(func() { _ = cl.Close() }); err != nil {
		_ = cl.Close()
		return nil, err
	}
	return cl, nil
}

func (c *Cluster) clientConfig(endpoints []string) clientv3.Config {
	cfg := ClientConfig(endpoints)
	if c.certs != nil {
		cfg.TLS = c.certs.client.Clone()
	}
	return cfg
}

// ClientConfig returns what the clients of a cluster are configured with, for
// those in other processes. It has no credentials.
func ClientConfig(endpoints []string) clientv3.Config {
	return clientv3.Config{
		Endpoints:   endpoints,
		DialTimeout: 5 * time.Second,
		Logger:      zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 300 * time.Millisecond},
			MinConnectTimeout: 2 * time.Second,
		})},
	}
}

// enableAuth makes the users and turns authentication on.
func (c *Cluster) enableAuth(ctx context.Context) error {
	cl, err := clientv3.New(c.clientConfig(c.Endpoints()))
	if err != nil {
		return err
	}
	defer cl.Close()
	root := User{Name: RootName, Password: RootPassword}
	for _, u := range append([]User{root}, c.opts.users...) {
		if _, err := cl.RoleAdd(ctx, u.Name); err != nil {
			return err
		}
		for _, r := range u.Rights {
			if _, err := cl.RoleGrantPermission(ctx, u.Name, r.Key, r.End, r.Type); err != nil {
				return err
			}
		}
		if _, err := cl.UserAdd(ctx, u.Name, u.Password); err != nil {
			return err
		}
		if _, err := cl.UserGrantRole(ctx, u.Name, u.Name); err != nil {
			return err
		}
	}
	_, err = cl.AuthEnable(ctx)
	return err
}

// SetNoSpace raises or clears the NOSPACE alarm of all running members, as if
// their databases were full.
func (c *Cluster) SetNoSpace(on bool) {
	if c.tb != nil {
		c.tb.Helper()
	}
	action := pb.AlarmRequest_DEACTIVATE
	if on {
		action = pb.AlarmRequest_ACTIVATE
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, m := range c.members {
		if m.etcd == nil {
			continue
		}
		_, err := m.etcd.Server.Alarm(ctx, &pb.AlarmRequest{
			MemberID: uint64(m.etcd.Server.MemberID()), Action: action, Alarm: pb.AlarmType_NOSPACE,
		})
		c.must(err)
	}
}
