package integration

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// TestReady: serve and mount say when they are ready: on standard output, and by the descriptor that they are given, which ends then.
func TestReady(t *testing.T) {
	h := kit.OpenHost(t)
	pids := kit.NeedHierarchy(t, h, "pids")
	dir, socket := kit.PublicDir(t), filepath.Join(t.TempDir(), "api.sock")
	for _, c := range []struct {
		args  []string
		says  string
		works func() bool
	}{
		{[]string{"mount", "--ready-fd", kit.ReadyFD, "--boundary", kit.NewBoundary(t, "ready", pids), "--controllers", "pids", dir},
			"the view is mounted at " + dir, func() bool { return kit.IsMounted(dir) }},
		{[]string{"serve", "--ready-fd", kit.ReadyFD, "--socket", socket, "--guests", ""},
			"orders are taken at " + socket, func() bool {
				return exec.Command(kit.Program(t), "guest", "ls", "--socket", socket).Run() == nil
			}},
	} {
		reader, writer := kit.PipeTo(t)
		cmd := exec.Command(kit.Program(t), c.args...)
		cmd.ExtraFiles = []*os.File{writer}
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		writer.Close()
		if word, err := io.ReadAll(reader); err != nil || string(word) != "ready\n" || !c.works() {
			t.Errorf("%s: the descriptor says %q, %v", c.args[0], word, err)
		}
		if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || !strings.HasPrefix(line, "vcgroupfs: ") || !strings.Contains(line, c.says) {
			t.Errorf("%s says %q, %v", c.args[0], line, err)
		}
		cmd.Process.Signal(unix.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s ends with %v", c.args[0], err)
		}
	}
	out, err := exec.Command(kit.Program(t), "serve", "--ready-fd", "77", "--socket", socket).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "--ready-fd 77: give a descriptor above 2 that is open") {
		t.Errorf("a descriptor that is not open: %v, %s", err, out)
	}
}

// TestLogOptions: --log-level and --log-format of serve hold for all its processes, also for a worker that is started later.
func TestLogOptions(t *testing.T) {
	script := filepath.Join(t.TempDir(), "vcgroupfs")
	text := "#!/bin/sh\nexec " + kit.Program(t) + ` --log-level info --log-format json "$@"` + "\n"
	if err := os.WriteFile(script, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	d := kit.StartDaemonOf(t, script)
	p := kit.NewPlace(t, d, "log-options")
	for range 2 {
		d.WantTry(t, 0, "", p.Add("web")...)
		d.WantTry(t, 0, "", "guest", "rm", "web")
		d.Signal(t, unix.SIGKILL, 0)
		d.Ready(t)
	}
	said := d.Log()
	d.Stop(t)
	removed := 0
	for text := range strings.Lines(said) {
		var line struct{ Level, Msg, Guest string }
		if json.Unmarshal([]byte(text), &line) != nil {
			t.Errorf("not JSON: %q", text)
		}
		if line.Level == "info" && line.Guest == "web" && line.Msg == "the guest is removed" {
			removed++
		}
	}
	if removed != 2 {
		t.Errorf("%d of 2 workers log at level info: %s", removed, said)
	}
}
