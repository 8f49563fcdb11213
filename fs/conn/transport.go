package conn

import (
	"errors"
	"fmt"
	"strings"
)

// Transport is the way of requests and replies between the kernel and a connection.
type Transport int

// The transports. io_uring (Documentation/filesystems/fuse/fuse-io-uring.rst, Linux 6.14) answers a request on the
// processor of its caller, which on small machines is what a round trip costs most; classic is read(2) and write(2) of
// /dev/fuse.
const (
	TransportClassic Transport = iota
	TransportAuto              // io_uring where the kernel offers it and the connection can use it, else classic
	TransportURing             // io_uring, or New fails
)

// transportNames are in the order of the constants.
var transportNames = []string{"classic", "auto", "io_uring"}

func (t Transport) String() string { return transportNames[t] }

// ParseTransport reads a transport's name. The error lists the names.
func ParseTransport(name string) (Transport, error) {
	for t, n := range transportNames {
		if n == name {
			return Transport(t), nil
		}
	}
	return 0, fmt.Errorf("unknown transport %q; allowed: auto, classic, io_uring", name)
}

// URingParameter is the kernel's switch for FUSE over io_uring, off by default.
const URingParameter = "/sys/module/fuse/parameters/enable_uring"

// CheckURing reports why this host cannot use FUSE over io_uring: the kernel does not offer it, or denies io_uring to
// this process. It asks the kernel by a connection and a ring of its own.
func CheckURing() error {
	offered, err := askOffer()
	if err != nil {
		return err
	}
	if offered&OfferURing == 0 {
		return errors.New("cannot use io_uring: the kernel does not offer FUSE over io_uring; it needs Linux 6.14 with " +
			"CONFIG_FUSE_IO_URING, and: echo Y >" + URingParameter)
	}
	if n := possibleCPUs(); n > maxQueues {
		return fmt.Errorf("cannot use io_uring: the kernel wants a queue for each of %d possible processors, at most %d "+
			"are served", n, maxQueues)
	}
	r, err := newRing(1)
	if err != nil {
		return fmt.Errorf("cannot use io_uring: %w; look at the sysctl kernel.io_uring_disabled and at seccomp filters", err)
	}
	r.close()
	return nil
}

// unfit lists what of a configuration io_uring does not provide.
//
// A connection with io_uring cannot outlive its process: the kernel keeps no request of a dead server's ring for the
// next one (FUSE_NOTIFY_RESEND sends only those that were read from /dev/fuse), and an answer must come from the memory
// that the dead server registered. Rates and shares are for a daemon with many guests.
func (cfg *Config) unfit() string {
	var all []string
	if s := cfg.Survival; s != nil && (s.Clone || s.Init != nil) {
		all = append(all, "a connection that outlives its process")
	}
	if cfg.Slots != nil || cfg.MaxRate > 0 || cfg.MaxCPU > 0 {
		all = append(all, "a share of the server among many connections")
	}
	return strings.Join(all, " and ")
}

// checkTransport fails where io_uring must be used and cannot.
func (cfg *Config) checkTransport() error {
	if cfg.Transport != TransportURing {
		return nil
	}
	if what := cfg.unfit(); what != "" {
		return fmt.Errorf("cannot use io_uring for %s", what)
	}
	return CheckURing()
}

// Transport returns the transport in use, which is classic until the kernel has agreed to io_uring.
func (c *Conn) Transport() Transport {
	if rs := c.rings.Load(); rs != nil && rs.started.Load() {
		return TransportURing
	}
	return TransportClassic
}
