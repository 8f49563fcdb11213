package doctor

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/sirupsen/logrus"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
	"github.com/vcgroupfs/vcgroupfs/fs/conn"
)

// idle is a backend without guests.
type idle struct{ api.Backend }

func (idle) Info() api.Info   { return api.Info{Version: "1", Resend: conn.CanResend()} }
func (idle) InGuest(int) bool { return false }

// TestDaemonHealth: a daemon that answers and says that it is not well has the reason said.
func TestDaemonHealth(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("machine: not root, whom the daemon serves")
	}
	log := logrus.New()
	log.SetOutput(io.Discard)
	for want, healthy := range map[Check]func() error{
		{"daemon", OK, "version 1, 0 guests, 0 restarts", ""}:                          nil,
		{"daemon", Less, "not healthy: no guest has been looked after", "see its log"}: func() error { return errors.New("no guest has been looked after") },
	} {
		socket := filepath.Join(t.TempDir(), "s")
		l, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			ended <- api.Serve(ctx, api.Config{Backend: idle{}, Healthy: healthy, Log: logrus.NewEntry(log)}, l, nil)
		}()
		if got := daemon(t.Context(), socket); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}
