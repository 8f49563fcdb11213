package api

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
)

const (
	rulesFile      = "../../../packaging/prometheus/rules.yaml"
	rulesTestFile  = "../../../packaging/prometheus/rules_test.yaml"
	operationsPage = "../../../docs/operations.md"
)

func readFile(t *testing.T, file string) string {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// family is a metric of a daemon.
type family struct {
	kind   string // counter, gauge, histogram or summary
	labels []string
}

// families are the metrics of a daemon by name, as a scrape has them.
func families(t *testing.T) map[string]*family {
	t.Helper()
	m := NewMetrics("test", func() Totals { return Totals{} })
	m.Denied("boundary")
	byName := map[string]*family{}
	label := regexp.MustCompile(`(\w+)="`)
	for line := range strings.Lines(scrape(m)) {
		if words := strings.Fields(line); words[0] == "#" && words[1] == "TYPE" {
			byName[words[2]] = &family{kind: words[3]}
			continue
		}
		name, labels, _ := strings.Cut(line, "{")
		if f := byName[strings.TrimSuffix(name, "_count")]; f != nil && f.labels == nil {
			for _, l := range label.FindAllStringSubmatch(labels, -1) {
				f.labels = append(f.labels, l[1])
			}
		}
	}
	return byName
}

// seriesNames are the names by which Prometheus knows those metrics, and those that it has of each target by itself.
func seriesNames(t *testing.T) map[string]bool {
	names := map[string]bool{"up": true, "scrape_duration_seconds": true}
	for name, f := range families(t) {
		names[name] = f.kind != "histogram"
		if f.kind == "histogram" {
			names[name+"_bucket"] = true
		}
		if f.kind == "histogram" || f.kind == "summary" {
			names[name+"_sum"], names[name+"_count"] = true, true
		}
	}
	return names
}

var (
	// Of an expression: strings, matchers, ranges, lists of labels, and durations of an offset.
	notNames = regexp.MustCompile(`"[^"]*"|'[^']*'|\{[^}]*\}|\[[^\]]*\]|\b(by|on|without|ignoring|group_left|group_right) *\([^)]*\)|\b[0-9][0-9a-zA-Z.]*`)
	// A name before a parenthesis is a function's.
	nameIn   = regexp.MustCompile(`[a-zA-Z_:][a-zA-Z0-9_:]*\s*\(?`)
	keywords = []string{"and", "or", "unless", "offset", "bool"}
)

// metricsIn are the metrics that an expression names.
func metricsIn(expr string) (names []string) {
	for _, name := range nameIn.FindAllString(notNames.ReplaceAllString(expr, " "), -1) {
		if name = strings.TrimSpace(name); !strings.HasSuffix(name, "(") && !slices.Contains(keywords, name) {
			names = append(names, name)
		}
	}
	return names
}

// TestMetricsIn: what the other tests take for a metric.
func TestMetricsIn(t *testing.T) {
	got := metricsIn(`sum by (job, le) (rate(a_total{x="b_total"}[5m] offset 1h)) > 2 and on (job) time() - c:d < 900 unless e`)
	if want := []string{"a_total", "c:d", "e"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// rule is an alarm of rules.yaml.
type rule struct {
	Alert, Expr         string
	Labels, Annotations map[string]string
}

func rules(t *testing.T) (all []rule) {
	t.Helper()
	var file struct{ Groups []struct{ Rules []rule } }
	if err := yaml.Unmarshal([]byte(readFile(t, rulesFile)), &file); err != nil {
		t.Fatal(err)
	}
	for _, g := range file.Groups {
		all = append(all, g.Rules...)
	}
	return all
}

// TestRules: each alarm asks for metrics that there are, says what to do, and is tested.
func TestRules(t *testing.T) {
	known, tests := seriesNames(t), readFile(t, rulesTestFile)
	for _, r := range rules(t) {
		named := metricsIn(r.Expr)
		for _, name := range named {
			if !known[name] {
				t.Errorf("%s asks for %s, which the daemon does not have", r.Alert, name)
			}
		}
		if len(named) == 0 {
			t.Errorf("%s asks for no metric: %s", r.Alert, r.Expr)
		}
		if s := r.Labels["severity"]; s != "critical" && s != "warning" {
			t.Errorf("%s has the severity %q", r.Alert, s)
		}
		if r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
			t.Errorf("%s does not say what it means and what to do", r.Alert)
		}
		if !strings.Contains(tests, "alertname: "+r.Alert+"\n") && !strings.Contains(tests, `alertname="`+r.Alert+`", alertstate="firing"`) {
			t.Errorf("no test has %s fire", r.Alert)
		}
	}
}

// TestDocumentedAlarms: each row of the table of alarms is a rule, and each rule a row.
func TestDocumentedAlarms(t *testing.T) {
	_, text, found := strings.Cut(readFile(t, operationsPage), "\nAlarms worth having")
	_, table, _ := strings.Cut(text, "\n|---|---|---|---|\n")
	table, _, ended := strings.Cut(table, "\n\n")
	if !found || !ended {
		t.Fatal("there is no table of alarms")
	}
	var named []string
	for row := range strings.Lines(table) {
		m := regexp.MustCompile("^\\| `(\\w+)` \\|").FindStringSubmatch(row)
		if m == nil {
			t.Errorf("no alarm: %s", row)
			continue
		}
		named = append(named, m[1])
	}
	var have []string
	for _, r := range rules(t) {
		have = append(have, r.Alert)
	}
	if !slices.Equal(named, have) {
		t.Errorf("the table has the alarms %v, and rules.yaml %v", named, have)
	}
}

// TestDocumentedMetrics: the table of metrics has each of the daemon's own, with its labels, and no other.
func TestDocumentedMetrics(t *testing.T) {
	documented := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(vcgroupfs_\\w+)(?:\\{([\\w,]*)\\})?` \\|").FindAllStringSubmatch(readFile(t, operationsPage), -1) {
		documented[m[1]] = m[2]
	}
	for name, f := range families(t) {
		if !strings.HasPrefix(name, "vcgroupfs_") {
			continue
		}
		if got, ok := documented[name]; !ok || got != strings.Join(f.labels, ",") {
			t.Errorf("%s has the labels %v, and in the table %q (%t)", name, f.labels, got, ok)
		}
		delete(documented, name)
	}
	if len(documented) > 0 {
		t.Errorf("the table has what the daemon does not have: %v", documented)
	}
}
