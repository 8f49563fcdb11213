// Package apitest serves the control interface for tests.
package apitest

import (
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/sirupsen/logrus"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
)

// Serve has a backend answer on a socket until the test's end. It skips the test of a user other than root, whom alone
// a daemon lets do anything.
func Serve(t testing.TB, backend api.Backend) (socket string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("machine: not root, whom the daemon serves")
	}
	socket = filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	log := logrus.New()
	log.SetOutput(io.Discard)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- api.Serve(ctx, api.Config{Backend: backend, Log: logrus.NewEntry(log)}, l, nil) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return socket
}
