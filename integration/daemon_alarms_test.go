package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// prometheus is a Prometheus of the test's own.
type prometheus struct{ address string }

// startPrometheus starts Debian's with a configuration, and waits until it answers. It ends with the test.
func startPrometheus(t *testing.T, config string) prometheus {
	t.Helper()
	dir := os.Getenv("VCGROUPFS_PROMETHEUS")
	if dir == "" {
		t.Skip("machine: prometheus is not unpacked (.ci/prometheus.sh), VCGROUPFS_PROMETHEUS names no directory of it")
	}
	p := prometheus{kit.LoopbackAddress(t)}
	work := t.TempDir()
	said, err := os.Create(filepath.Join(work, "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(dir, "usr/bin/prometheus"), "--config.file="+kit.FileWith(t, config), "--storage.tsdb.path="+filepath.Join(work, "data"),
		"--web.listen-address="+p.address)
	cmd.Dir, cmd.Stderr = work, said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		cmd.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		cmd.Process.Signal(unix.SIGTERM)
		select {
		case <-ended:
		case <-time.After(kit.Patience):
			t.Error("prometheus does not end")
			cmd.Process.Kill()
			<-ended
		}
		said.Close()
		if t.Failed() {
			t.Logf("prometheus said: %.4000s", kit.ReadFile(said.Name()))
		}
	})
	kit.Eventually(t, "prometheus to answer", func() bool {
		select {
		case <-ended:
			t.Fatalf("prometheus ended: %s", cmd.ProcessState)
		default:
		}
		return p.ask("/-/ready", nil) == nil
	})
	return p
}

// ask asks the API of Prometheus for the data of an answer.
func (p prometheus) ask(path string, data any) error {
	resp, err := http.Get("http://" + p.address + path)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if data == nil && resp.StatusCode == http.StatusOK {
		return nil
	}
	answer := struct {
		Status, Error string
		Data          any
	}{Data: data}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return fmt.Errorf("%s: %s: %w", path, resp.Status, err)
	}
	if answer.Status != "success" {
		return fmt.Errorf("%s: %s", path, answer.Error)
	}
	return nil
}

// series are the series that an expression has now.
func (p prometheus) series(t *testing.T, expr string) (found []struct{ Metric map[string]string }) {
	t.Helper()
	var data struct {
		Result []struct{ Metric map[string]string }
	}
	if err := p.ask("/api/v1/query?query="+url.QueryEscape(expr), &data); err != nil {
		t.Fatalf("%s: %v", expr, err)
	}
	return data.Result
}

// promAlert is an alarm that Prometheus has raised.
type promAlert struct {
	Labels, Annotations map[string]string
	State               string
}

// firing are the alarms of a name that fire.
func (p prometheus) firing(t *testing.T, name string) []promAlert {
	t.Helper()
	var data struct{ Alerts []promAlert }
	if err := p.ask("/api/v1/alerts", &data); err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(data.Alerts, func(a promAlert) bool { return a.State != "firing" || a.Labels["alertname"] != name })
}

// scraped starts a Prometheus with the docs' configuration, which has the packaged rules. Only how often it looks is not the docs'.
func scraped(t *testing.T, address string) prometheus {
	t.Helper()
	rules, err := filepath.Abs("../packaging/prometheus/rules.yaml")
	if err != nil {
		t.Fatal(err)
	}
	config := docsText(t, "docs/operations.md", "yaml", "rule_files:")
	return startPrometheus(t, "global: {scrape_interval: 1s, evaluation_interval: 1s}\n"+
		strings.NewReplacer("/usr/share/vcgroupfs/prometheus/rules.yaml", rules, "127.0.0.1:9750", address).Replace(config))
}

// TestAlarms: a Prometheus with the packaged rules raises the alarm about a worker that is killed again and again, and no alarm before. The
// guest notices nothing. Each panel of the packaged dashboard then has something to show.
func TestAlarms(t *testing.T) {
	address := kit.LoopbackAddress(t)
	d := kit.StartDaemonWith(t, kit.Program(t), []string{"--metrics", address})
	p := kit.NewPlace(t, d, "alarms")
	d.WantTry(t, 0, "", p.Add("web", "--policy", kit.FileWith(t, "version: 1\nquota: {cgroups: 1}\n"))...)
	prom := scraped(t, address)
	kit.Eventually(t, "the first scrape of a daemon that is well", func() bool { return len(prom.series(t, "vcgroupfs_healthy == 1")) == 1 })
	if fired := prom.series(t, `ALERTS{alertstate="firing"}`); len(fired) > 0 {
		t.Errorf("nothing has happened, and there are the alarms %v", fired)
	}
	const alarm = "VcgroupfsWorkerRestarts"
	last, killed := 0, 0
	kit.Eventually(t, "the alarm about a worker that is killed again and again", func() bool {
		if pid := d.Signal(t, unix.SIGKILL, last); pid != 0 {
			last = pid
			killed++
		}
		if got := kit.ReadFile(p.At("pids.max")); got != "max\n" {
			t.Fatalf("after %d kills the guest reads %q", killed, got)
		}
		return len(prom.firing(t, alarm)) > 0
	})
	fired := prom.firing(t, alarm)
	if len(fired) != 1 || fired[0].Labels["severity"] != "warning" || !strings.HasPrefix(fired[0].Annotations["summary"], "vcgroupfs on "+address+" replaced ") {
		t.Errorf("it says %+v", fired)
	}
	t.Logf("after %d kills: %s", killed, fired[0].Annotations["summary"])
	if info := d.Ready(t); killed < 4 || info.Restarts < 4 {
		t.Errorf("the alarm fires after %d kills and %d restarts; it is for more than 3", killed, info.Restarts)
	}
	wantPanels(t, prom, p)
	d.Stop(t)
}

// wantPanels asks for what each panel of the dashboard shows, while a guest works, until it is something.
func wantPanels(t *testing.T, prom prometheus, p *kit.Place) {
	t.Helper()
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	text, err := os.ReadFile("../packaging/grafana/dashboard.json")
	if err == nil {
		err = json.Unmarshal(text, &dashboard)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkdir(p.At("a"), 0o755); err != nil {
		t.Fatal(err)
	}
	defer unix.Rmdir(p.At("a"))
	variables := strings.NewReplacer("$__rate_interval", "1m", "$__range", "1h", "$instance", ".+")
	for _, panel := range dashboard.Panels {
		for _, x := range panel.Targets {
			if strings.Contains(x.Expr, "vcgroupfs_stalled_seconds") && !kit.IsMounted("/sys/fs/fuse/connections") {
				continue
			}
			kit.Eventually(t, "something to show in the panel "+panel.Title+": "+x.Expr, func() bool {
				if got := kit.Word(unix.Mkdir(p.At("b"), 0o755)); got != "EAGAIN" { // the quota
					t.Fatalf("mkdir: %s", got)
				}
				kit.WithFile(p.At("pids.max"), unix.O_WRONLY, kit.WriteFD("1")) // denied
				return len(prom.series(t, variables.Replace(x.Expr))) > 0
			})
		}
	}
}
