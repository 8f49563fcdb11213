package api

import (
	"fmt"
	"net/http/httptest"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func scrape(m *Metrics) string {
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	return w.Body.String()
}

// TestMetrics: what is observed is what is scraped, and the labels are bounded.
func TestMetrics(t *testing.T) {
	m := NewMetrics("1.2\xff", func() Totals { return Totals{3, 40, 5, true, 90 * time.Second, Calls{2, 70, 8}} })
	m.Observe(14, 0, false, 30*time.Microsecond)
	m.Observe(14, int(syscall.EPERM), true, time.Microsecond)
	m.Observe(14, int(syscall.EACCES), false, time.Microsecond)
	m.Observe(1, int(syscall.ENOENT), false, time.Microsecond)
	m.Observe(7, 0, false, time.Hour)
	m.Observe(1<<31, 0, false, time.Hour)
	m.SetResume(250 * time.Millisecond)
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() { m.Denied(fmt.Sprint("rule\xff", i)) })
	}
	wg.Wait()
	text := scrape(m)
	for _, want := range []string{
		`vcgroupfs_requests_total{operation="open",outcome="ok"} 1`, `vcgroupfs_requests_total{operation="open",outcome="denied"} 1`,
		`vcgroupfs_requests_total{operation="open",outcome="error"} 1`, `vcgroupfs_requests_total{operation="lookup",outcome="ok"} 1`,
		`vcgroupfs_requests_total{operation="other",outcome="ok"} 2`, `vcgroupfs_request_duration_seconds_bucket{operation="open",le="2e-05"} 2`,
		`vcgroupfs_request_duration_seconds_count{operation="open"} 3`, `vcgroupfs_denials_total{rule="other"} 136`,
		"vcgroupfs_guests 3", "vcgroupfs_cgroups 40", "vcgroupfs_worker_restarts_total 5", "vcgroupfs_listeners 2", `vcgroupfs_notified_calls{outcome="answered"} 70`, `vcgroupfs_notified_calls{outcome="passed-on"} 8`,
		"vcgroupfs_healthy 1", "vcgroupfs_stalled_seconds 90", "vcgroupfs_resume_seconds 0.25", `vcgroupfs_info{version="1.2?"} 1`,
		"go_goroutines ", "process_open_fds ",
	} {
		if !strings.Contains(text, want+"\n") && !strings.Contains(text, "\n"+want) {
			t.Errorf("no %q", want)
		}
	}
	if n := strings.Count(text, "vcgroupfs_denials_total{"); n != maxRules+1 {
		t.Errorf("%d rules", n)
	}
	m = NewMetrics("1.2", func() Totals { return Totals{Stalled: -1} })
	if text := scrape(m); !strings.Contains(text, "vcgroupfs_healthy 0\n") || strings.Contains(text, "vcgroupfs_stalled") {
		t.Errorf("not healthy, and the kernel is not asked:\n%s", text)
	}
}

func BenchmarkObserve(b *testing.B) {
	m := NewMetrics("x", func() Totals { return Totals{} })
	for b.Loop() {
		m.Observe(15, 0, false, 40*time.Microsecond)
	}
}
