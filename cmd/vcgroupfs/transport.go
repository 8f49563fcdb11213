package main

import (
	"github.com/urfave/cli/v2"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
	"github.com/vcgroupfs/vcgroupfs/fs/conn"
)

// transportFlag is an option of the commands that serve one view and end with it. The guests of "serve" outlive their
// server, which FUSE over io_uring does not allow.
func transportFlag() cli.Flag {
	return &cli.StringFlag{Name: "transport", Value: conn.TransportAuto.String(),
		Usage: "`HOW` the view's requests come: classic, by reading /dev/fuse; io_uring, opens in half the time where the " +
			"kernel offers it (Linux 6.14, with " + conn.URingParameter + " Y); or auto, io_uring where possible"}
}

// transportOf returns the transport. The error reports an unknown word.
func transportOf(c *cli.Context) (conn.Transport, error) {
	t, err := conn.ParseTransport(c.String("transport"))
	if err != nil {
		return t, usageErrorf("--transport: %v", err)
	}
	return t, nil
}

// checkTransport fails on a host that cannot do what was asked for.
func checkTransport(t conn.Transport) error {
	if t != conn.TransportURing {
		return nil
	}
	if err := conn.CheckURing(); err != nil {
		return fault.With(fault.Unsupported, err)
	}
	return nil
}
