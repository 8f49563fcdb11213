package api

import (
	"net/http"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// operations are the FUSE requests by opcode (enum fuse_opcode, include/uapi/linux/fuse.h), named as in the label
// "operation". All others are "other".
var operations = [...]string{
	1: "lookup", 2: "forget", 3: "getattr", 4: "setattr", 5: "readlink", 6: "symlink", 8: "mknod", 9: "mkdir",
	10: "unlink", 11: "rmdir", 12: "rename", 13: "link", 14: "open", 15: "read", 16: "write", 17: "statfs",
	18: "release", 20: "fsync", 21: "setxattr", 22: "getxattr", 23: "listxattr", 24: "removexattr", 25: "flush",
	26: "init", 27: "opendir", 28: "readdir", 29: "releasedir", 34: "access", 35: "create", 36: "interrupt",
	38: "destroy", 39: "ioctl", 40: "poll", 42: "batch-forget", 43: "fallocate", 44: "readdirplus", 45: "rename2",
	46: "lseek", 52: "statx",
}

// latencyBuckets are few, since each costs a series per operation: a request that stays in the daemon, one that reaches
// the host, one that waits there, one that hangs.
var latencyBuckets = []float64{20e-6, 100e-6, 500e-6, 2.5e-3, 25e-3, 1}

// maxRules bounds the values of the label "rule"; further rules are "other".
const maxRules = 64

const otherLabel = "other"

// Outcomes of a request.
const (
	outcomeOK = iota
	outcomeError
	outcomeDenied
	outcomes
)

// operation holds the counters of one kind of request, resolved beforehand.
type operation struct {
	by      [outcomes]prometheus.Counter
	latency prometheus.Observer
}

// Totals are the present totals at a scrape.
type Totals struct {
	Guests   int
	Cgroups  int64         // below all boundaries
	Restarts uint64        // of the worker, since the holder started
	Healthy  bool          // GET /healthz answers 200
	Stalled  time.Duration // longest time for which a guest has waited and got no answer; below 0: the kernel cannot be asked
	Calls                  // of the present guests
}

// Metrics are the daemon's metrics, in a registry of their own.
type Metrics struct {
	registry *prometheus.Registry
	byOpcode [len(operations)]*operation // immutable; all others are other
	other    *operation
	dropped  prometheus.Counter
	resume   prometheus.Gauge
	denials  *prometheus.CounterVec

	mu    sync.RWMutex
	rules map[string]prometheus.Counter // guarded by mu; with otherLabel at most maxRules + 1
}

// NewMetrics makes the metrics of a worker. Each scrape calls totals.
func NewMetrics(version string, totals func() Totals) *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry(), rules: map[string]prometheus.Counter{}}
	requests := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "vcgroupfs_requests_total",
		Help: "Requests of guests that reached the worker since it started, by operation and outcome: ok, error (the " +
			"host's), denied (the policy's).",
	}, []string{"operation", "outcome"})
	latency := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "vcgroupfs_request_duration_seconds", Help: "Time from the arrival of a guest's request to its reply.",
		Buckets: latencyBuckets,
	}, []string{"operation"})
	m.denials = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "vcgroupfs_denials_total",
		Help: "Requests that a policy denied, by rule."}, []string{"rule"})
	m.dropped = prometheus.NewCounter(prometheus.CounterOpts{Name: "vcgroupfs_audit_dropped_total",
		Help: "Denials that were counted but not logged, for their guest had too many."})
	m.resume = prometheus.NewGauge(prometheus.GaugeOpts{Name: "vcgroupfs_resume_seconds",
		Help: "Time from the end of the worker before to serving all guests again."})
	info := prometheus.NewGauge(prometheus.GaugeOpts{Name: "vcgroupfs_info", Help: "1; the label has the version.",
		ConstLabels: prometheus.Labels{"version": strings.ToValidUTF8(version, "?")}})
	info.Set(1)
	m.registry.MustRegister(requests, latency, m.denials, m.dropped, m.resume, info, newTotalsCollector(totals),
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	resolve := func(name string) *operation {
		return &operation{
			by: [outcomes]prometheus.Counter{
				requests.WithLabelValues(name, "ok"), requests.WithLabelValues(name, "error"),
				requests.WithLabelValues(name, "denied"),
			},
			latency: latency.WithLabelValues(name),
		}
	}
	m.other = resolve(otherLabel)
	for opcode, name := range operations {
		m.byOpcode[opcode] = m.other
		if name != "" {
			m.byOpcode[opcode] = resolve(name)
		}
	}
	return m
}

// Handler answers GET /metrics, in the text format alone. All requests within keptFor get the same answer: making one
// costs more than a guest's requests do, and any user who can connect may ask.
func (m *Metrics) Handler() http.Handler {
	return &keptAnswer{made: promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{DisableCompression: true})}
}

// Observe counts one request: its FUSE opcode, the error number of its reply (0 or more), denied by the policy or not,
// and its duration. It is safe for serving threads: it waits for nothing.
func (m *Metrics) Observe(opcode uint32, errno int, denied bool, d time.Duration) {
	o := m.other
	if opcode < uint32(len(m.byOpcode)) {
		o = m.byOpcode[opcode]
	}
	switch {
	case denied:
		o.by[outcomeDenied].Inc()
	case errno == 0, opcode == 1 && errno == int(syscall.ENOENT):
		// A lookup of a missing name is no error.
		o.by[outcomeOK].Inc()
	default:
		o.by[outcomeError].Inc()
	}
	o.latency.Observe(d.Seconds())
}

// Denied counts one denial, by its rule.
func (m *Metrics) Denied(rule string) {
	m.mu.RLock()
	c := m.rules[rule]
	m.mu.RUnlock()
	if c == nil {
		c = m.addRule(rule)
	}
	c.Inc()
}

func (m *Metrics) addRule(rule string) prometheus.Counter {
	m.mu.Lock()
	defer m.mu.Unlock()
	if c := m.rules[rule]; c != nil {
		return c
	}
	if len(m.rules) >= maxRules {
		// Not stored under the rule's name: that would be unbounded.
		return m.denials.WithLabelValues(otherLabel)
	}
	c := m.denials.WithLabelValues(strings.ToValidUTF8(rule, "?"))
	m.rules[rule] = c
	return c
}

// SetResume sets the guests' waiting time: from the end of the previous worker to serving again.
func (m *Metrics) SetResume(d time.Duration) { m.resume.Set(d.Seconds()) }

// totalsCollector reads the totals once per scrape.
type totalsCollector struct {
	totals                     func() Totals
	guests, cgroups, restarted *prometheus.Desc
	listeners, calls           *prometheus.Desc
	healthy, stalled           *prometheus.Desc
}

func newTotalsCollector(totals func() Totals) *totalsCollector {
	return &totalsCollector{
		totals:    totals,
		guests:    prometheus.NewDesc("vcgroupfs_guests", "Guests that are served.", nil, nil),
		cgroups:   prometheus.NewDesc("vcgroupfs_cgroups", "Cgroups below the boundaries of all guests.", nil, nil),
		listeners: prometheus.NewDesc("vcgroupfs_listeners", "Seccomp listeners of the guests.", nil, nil),
		calls: prometheus.NewDesc("vcgroupfs_notified_calls",
			"System calls of the guests that are there which came by a listener: answered, or passed-on to the kernel.",
			[]string{"outcome"}, nil),
		restarted: prometheus.NewDesc("vcgroupfs_worker_restarts_total",
			"Workers that were replaced since the holder started.", nil, nil),
		healthy: prometheus.NewDesc("vcgroupfs_healthy", "1 while GET /healthz answers 200.", nil, nil),
		stalled: prometheus.NewDesc("vcgroupfs_stalled_seconds",
			"Longest time for which a guest has had requests waiting, as the kernel counts them, and none was answered. "+
				"Missing where /sys/fs/fuse/connections is not mounted.", nil, nil),
	}
}

// Describe implements prometheus.Collector.
func (c *totalsCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.guests
	ch <- c.cgroups
	ch <- c.restarted
	ch <- c.listeners
	ch <- c.calls
	ch <- c.healthy
	ch <- c.stalled
}

// Collect implements prometheus.Collector with the totals.
func (c *totalsCollector) Collect(ch chan<- prometheus.Metric) {
	t := c.totals()
	ch <- prometheus.MustNewConstMetric(c.guests, prometheus.GaugeValue, float64(t.Guests))
	ch <- prometheus.MustNewConstMetric(c.cgroups, prometheus.GaugeValue, float64(t.Cgroups))
	ch <- prometheus.MustNewConstMetric(c.restarted, prometheus.CounterValue, float64(t.Restarts))
	ch <- prometheus.MustNewConstMetric(c.listeners, prometheus.GaugeValue, float64(t.Listeners))
	ch <- prometheus.MustNewConstMetric(c.calls, prometheus.GaugeValue, float64(t.Answered), "answered")
	ch <- prometheus.MustNewConstMetric(c.calls, prometheus.GaugeValue, float64(t.PassedOn), "passed-on")
	healthy := 0.0
	if t.Healthy {
		healthy = 1
	}
	ch <- prometheus.MustNewConstMetric(c.healthy, prometheus.GaugeValue, healthy)
	if t.Stalled >= 0 {
		ch <- prometheus.MustNewConstMetric(c.stalled, prometheus.GaugeValue, t.Stalled.Seconds())
	}
}
