package kit

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// DaemonInfo is what a test reads of GET /v1/info.
type DaemonInfo struct {
	Pid      int    `json:"pid"`
	Holder   int    `json:"holder"`
	Guests   int    `json:"guests"`
	Restarts uint64 `json:"restarts"`
	Resend   bool   `json:"resend"`
}

// GuestSpec is the body of PUT /v1/guests/{name} as far as a test needs it.
type GuestSpec struct {
	Boundary    string   `json:"boundary"`
	Target      string   `json:"target"`
	Rootfs      string   `json:"rootfs,omitempty"`
	Controllers []string `json:"controllers,omitempty"`
	Policy      string   `json:"policy,omitempty"`
}

// Declare writes the file that declares a guest.
func (d *Daemon) Declare(t testing.TB, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(d.Dir, "guests", name+".yaml"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// Call makes one request. A status that is not 2xx is an error with the body.
func (d *Daemon) Call(method, path string, body, answer any) error {
	var in io.Reader
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			return err
		}
		in = bytes.NewReader(raw)
	}
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://daemon"+path, in)
	if err != nil {
		return err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := d.Client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode/100 != 2 {
		err = fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, bytes.TrimSpace(raw))
	}
	if err == nil && answer != nil {
		err = json.Unmarshal(raw, answer)
	}
	return err
}

// Info is what the daemon says of itself.
func (d *Daemon) Info() (info DaemonInfo, err error) {
	err = d.Call("GET", "/v1/info", nil, &info)
	return info, err
}

// Run runs the program's client with --socket behind its other arguments.
func (d *Daemon) Run(t testing.TB, args ...string) string {
	t.Helper()
	cmd := exec.Command(Program(t), append(args, "--socket", d.Socket)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s\nthe log: %s", strings.Join(args, " "), err, out, d.Log())
	}
	return string(out)
}

// Add adds a site as a guest and returns the site as the guest sees it. The guest is removed by the daemon's end.
func (d *Daemon) Add(t testing.TB, name string, s Site) Site {
	t.Helper()
	dir := PublicDir(t)
	t.Cleanup(func() { d.Stop(t) }) // before the directory goes
	d.Mounts[dir] = true
	d.Run(t, "guest", "add", name, "--boundary", s.Path, "--controllers", SiteControllers, "--target", dir)
	return s.Through(dir)
}

// StartLoads adds sites as guests and starts a load in each.
func (d *Daemon) StartLoads(t testing.TB, sites []Site) (loads []*Load) {
	t.Helper()
	for i, s := range sites {
		l := NewLoad(t, d.Add(t, "g"+strconv.Itoa(i), s))
		l.tolerant = !d.Ready(t).Resend
		loads = append(loads, l)
	}
	for _, l := range loads {
		l.Start(t)
	}
	return loads
}

// Try runs the program's client and says its status and all that it printed.
func (d *Daemon) Try(t *testing.T, args ...string) (int, string) {
	t.Helper()
	cmd := exec.Command(Program(t), append(args, "--socket", d.Socket)...)
	out, _ := cmd.CombinedOutput()
	return cmd.ProcessState.ExitCode(), string(out)
}

// folded is where doctor begins a new line for want of columns.
var folded = regexp.MustCompile(`\n +`)

// WantTry runs the client and wants a status and a word of what it says.
func (d *Daemon) WantTry(t *testing.T, status int, word string, args ...string) {
	t.Helper()
	got, out := d.Try(t, args...)
	said := out
	if args[0] == "doctor" {
		said = folded.ReplaceAllString(out, " ")
	}
	if got != status || !strings.Contains(said, word) {
		t.Errorf("%s: status %d, %q; want %d and %q", strings.Join(args, " "), got, out, status, word)
	}
}

// FollowEvents follows the daemon's events in the background.
func (d *Daemon) FollowEvents(t *testing.T) func() string {
	t.Helper()
	out, err := os.Create(filepath.Join(d.Dir, "events"))
	if err != nil {
		t.Fatal(err)
	}
	ready, follows, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer ready.Close()
	defer follows.Close()
	cmd := exec.Command(Program(t), "guest", "events", "--json", "--ready-fd", ReadyFD, "--socket", d.Socket)
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = out, os.Stderr, []*os.File{follows}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		out.Close()
	})
	follows.Close()
	ready.SetReadDeadline(time.Now().Add(Patience))
	if word, err := bufio.NewReader(ready).ReadString('\n'); err != nil {
		t.Fatalf("guest events ended before it followed any: %q, %v", word, err)
	}
	return func() string { return ReadFile(out.Name()) }
}

// ReadyFD is the descriptor that a test gives for --ready-fd: the first of exec.Cmd.ExtraFiles.
const ReadyFD = "3"
