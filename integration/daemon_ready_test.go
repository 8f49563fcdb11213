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
)

// readyFD is the descriptor that a test gives for --ready-fd: the first of exec.Cmd.ExtraFiles.
const readyFD = "3"

// TestReady: serve and mount say when they are ready: on standard output, and by the descriptor that they are given, which ends then.
func TestReady(t *testing.T) {
	h := openHost(t)
	pids := need(t, h, "pids")
	dir, socket := publicDir(t), filepath.Join(t.TempDir(), "api.sock")
	for _, c := range []struct {
		args  []string
		says  string
		works func() bool
	}{
		{[]string{"mount", "--ready-fd", readyFD, "--boundary", boundary(t, "ready", pids), "--controllers", "pids", dir},
			"the view is mounted at " + dir, func() bool { return mounted(dir) }},
		{[]string{"serve", "--ready-fd", readyFD, "--socket", socket, "--guests", ""},
			"orders are taken at " + socket, func() bool {
				return exec.Command(program(t), "guest", "ls", "--socket", socket).Run() == nil
			}},
	} {
		reader, writer := pipeTo(t)
		cmd := exec.Command(program(t), c.args...)
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
	out, err := exec.Command(program(t), "serve", "--ready-fd", "77", "--socket", socket).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "--ready-fd 77: give a descriptor above 2 that is open") {
		t.Errorf("a descriptor that is not open: %v, %s", err, out)
	}
}

// TestLogOptions: --log-level and --log-format of serve hold for all its processes, also for a worker that is started later.
func TestLogOptions(t *testing.T) {
	script := filepath.Join(t.TempDir(), "vcgroupfs")
	text := "#!/bin/sh\nexec " + program(t) + ` --log-level info --log-format json "$@"` + "\n"
	if err := os.WriteFile(script, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	d := startDaemonOf(t, script)
	p := newPlace(t, d, "log-options")
	for range 2 {
		d.wantTry(t, 0, "", p.add("web")...)
		d.wantTry(t, 0, "", "guest", "rm", "web")
		d.signal(t, unix.SIGKILL, 0)
		d.ready(t)
	}
	said := d.log()
	d.stop(t)
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
