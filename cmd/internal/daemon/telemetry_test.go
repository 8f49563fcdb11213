package daemon

import (
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
	"github.com/vcgroupfs/vcgroupfs/fs"
)

// TestTelemetry: guests that come, go and are refused are events, lines of the log and counts.
func TestTelemetry(t *testing.T) {
	x := newParts(t)
	told, next := x.told(), x.events(t)
	g := x.standing(record{Name: "web"})
	told.added(g)
	told.ended(g, api.EventRemoved, "")
	told.ended(g, api.EventGone, "its boundary was removed")
	told.ended(g, "", "the daemon ends")
	for _, want := range []string{"added web", "removed web", "gone web its boundary was removed"} {
		if got := next(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	log := x.log.since()
	for _, want := range []string{`level=info msg="the guest is added" guest=web`, `level=info msg="the guest is removed"`,
		`level=warning msg="the guest is gone" guest=web reason="its boundary was removed"`} {
		if !strings.Contains(log, want) {
			t.Errorf("no %s in %s", want, log)
		}
	}
	if strings.Count(log, "\n") != 3 {
		t.Error(log)
	}
	none := func() string { return "/a" }
	told.denied(g, fs.Denial{UID: 7, Operation: "open", Rule: "boundary", Path: none})
	told.denied(g, fs.Denial{Operation: "mkdir", Rule: "cgroups", Path: none, Quota: true})
	if a, b := next(), next(); a != "denied web" || b != "quota web" {
		t.Error(a, b)
	}
	told.observe(g, 14, int(unix.EPERM), time.Millisecond)
	told.observe(g, 14, 0, time.Millisecond)
	if g.counts.requests.Load() != 2 || g.counts.denials.Load() != 2 {
		t.Error(g.counts.requests.Load(), g.counts.denials.Load())
	}
	w := httptest.NewRecorder()
	told.metrics.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for _, want := range []string{"vcgroupfs_guests 1\n", `vcgroupfs_requests_total{operation="open",outcome="denied"} 1`,
		`rule="boundary"} 1`} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("no %s in %s", want, w.Body)
		}
	}
	// Nothing is counted, so nothing is told.
	told.sample(g, nil)
}

// TestResumed: the log and new subscribers learn why the worker before this one ended, for a while.
func TestResumed(t *testing.T) {
	x := newParts(t)
	told := x.told()
	told.resumed(time.Now())
	if log := x.log.since(); log != "" {
		t.Errorf("after no other worker: %s", log)
	}
	told.reason = "it was killed"
	told.resumed(time.Now().Add(-time.Second))
	if log := x.log.since(); !strings.Contains(log, "serving goes on after it was killed") || !strings.Contains(log, "took=1") {
		t.Error(log)
	}
	events, cancel := told.subscribe("web")
	if e := <-events; e.Kind != api.EventRestarted || e.Reason != "it was killed" || !e.Time.Equal(told.since) {
		t.Errorf("%+v", e)
	}
	cancel()
	told.since = time.Now().Add(-2 * restartedFor)
	events, cancel = told.subscribe("")
	defer cancel()
	told.hub.Publish(api.Event{Kind: api.EventAdded})
	if e := <-events; e.Kind != api.EventAdded {
		t.Errorf("%+v", e)
	}
}
