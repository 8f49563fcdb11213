package daemon

import (
	"strings"
	"testing"
	"time"
)

// TestHealthy: each fault that a worker can tell of itself is told.
func TestHealthy(t *testing.T) {
	for says, spoil := range map[string]func(d *Daemon){
		"":                                      func(*Daemon) {},
		"the holder has ended":                  func(d *Daemon) { d.orphan.Store(true) },
		"the worker is ending":                  func(d *Daemon) { d.table.close() },
		"no guest has been looked after for 1m": func(d *Daemon) { d.sweeper.began.Store(time.Now().Add(-time.Minute).UnixNano()) },
	} {
		d := &Daemon{table: newTable(1), sweeper: &sweeper{}}
		d.sweeper.mark()
		spoil(d)
		if err := d.healthy(); (err == nil) != (says == "") || err != nil && !strings.Contains(err.Error(), says) {
			t.Errorf("%v; want %q", err, says)
		}
	}
}
