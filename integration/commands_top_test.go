package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/gdamore/tcell/v3/vt"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// topScreen is a "guest top" on a terminal of its own, and what that terminal shows.
type topScreen struct {
	*kit.Terminal
	cmd    *exec.Cmd
	before unix.Termios
	shows  vt.MockTerm
	fed    int // bytes of the terminal's text that shows has
	ended  chan error
}

// startTop starts "guest top" on a terminal of 100 columns and 12 lines.
func startTop(t *testing.T, d *kit.Daemon, options ...string) *topScreen {
	t.Helper()
	s := &topScreen{Terminal: kit.OpenTerminal(t), ended: make(chan error, 1)}
	s.shows = vt.NewMockTerm(vt.MockOptSize{X: 100, Y: 12})
	if err := s.shows.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.shows.Stop() })
	s.resize(t, 100, 12)
	before, err := unix.IoctlGetTermios(int(s.Slave.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	s.before = *before
	s.cmd = exec.Command(kit.Program(t), append([]string{"guest", "top", "--socket", d.Socket, "--interval", "100ms"}, options...)...)
	s.cmd.Env = append(os.Environ(), "TERM=xterm-256color", "LC_ALL=C.UTF-8")
	// The kernel tells the processes of a terminal's session of its new size.
	s.cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true, Setctty: true}
	kit.RunOnTerminal(t, s.Terminal, s.cmd)
	go func() { s.ended <- s.cmd.Wait() }()
	t.Cleanup(func() { s.cmd.Process.Kill() })
	return s
}

// resize changes the terminal's size.
func (s *topScreen) resize(t *testing.T, columns, lines int) {
	t.Helper()
	s.text()
	s.shows.SetSize(vt.Coord{X: vt.Col(columns), Y: vt.Row(lines)})
	size := &unix.Winsize{Row: uint16(lines), Col: uint16(columns)}
	if err := unix.IoctlSetWinsize(int(s.Master.Fd()), unix.TIOCSWINSZ, size); err != nil {
		t.Fatal(err)
	}
}

// text is what the terminal shows, a line for each of its own, without the spaces at their ends.
func (s *topScreen) text() string {
	sent := s.Text()
	s.shows.Write([]byte(sent[s.fed:]))
	s.fed = len(sent)
	s.shows.Drain()
	size, _ := s.shows.WindowSize()
	var lines []string
	for y := range size.Height {
		line := ""
		for x := range size.Width {
			c := s.shows.GetCell(vt.Coord{X: vt.Col(x), Y: vt.Row(y)}).C
			if c == "" {
				c = " "
			}
			line += c
		}
		lines = append(lines, strings.TrimRight(line, " "))
	}
	return strings.Join(lines, "\n")
}

// guests are the names on the screen, in order.
func (s *topScreen) guests() string {
	var names []string
	lines := strings.Split(s.text(), "\n")
	for _, line := range lines[2 : len(lines)-1] {
		if f := strings.Fields(line); len(f) == 8 {
			names = append(names, f[7])
		}
	}
	return strings.Join(names, " ")
}

// until waits until the screen shows something.
func (s *topScreen) until(t *testing.T, what string, shows func() bool) {
	t.Helper()
	defer func() {
		if t.Failed() {
			t.Logf("the screen:\n%s", s.text())
		}
	}()
	kit.Eventually(t, "the screen to show "+what, shows)
}

// press types keys and waits for what they show: guests in this order, or a text.
func (s *topScreen) press(t *testing.T, keys, guests, text string) {
	t.Helper()
	s.Master.WriteString(keys)
	s.until(t, fmt.Sprintf("%q and %q after %q", guests, text, keys), func() bool {
		return (guests == "" || s.guests() == guests) && strings.Contains(s.text(), text)
	})
}

// wantEnd waits for the end of the program and wants success, and the terminal as it was.
func (s *topScreen) wantEnd(t *testing.T) {
	t.Helper()
	if err := <-s.ended; err != nil {
		t.Errorf("guest top: %v", err)
	}
	now, err := unix.IoctlGetTermios(int(s.Slave.Fd()), unix.TCGETS)
	if err != nil || *now != s.before {
		t.Errorf("the terminal's settings: %+v, before %+v, %v", now, s.before, err)
	}
	s.until(t, "what it showed before", func() bool {
		sent := s.Text()
		for on, off := range map[string]string{vt.PmAltScreen.Enable(): vt.PmAltScreen.Disable(), vt.PmShowCursor.Disable(): vt.PmShowCursor.Enable()} {
			if strings.LastIndex(sent, on) < 0 || strings.LastIndex(sent, off) < strings.LastIndex(sent, on) {
				return false
			}
		}
		return true
	})
}

// newGuests makes guests with as many tasks as tasks says, each in a place of its own.
func newGuests(t *testing.T, d *kit.Daemon, tasks map[string]int) {
	t.Helper()
	for name, n := range tasks {
		p := kit.NewPlace(t, d, "top-"+name)
		d.WantTry(t, 0, "added", p.Add(name, "--limit", "pids.max=64")...)
		for range n {
			if err := p.Hierarchy.Attach(p.Path, kit.StartSleeper(t)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestTopScreen: keys sort, filter and select, a new size is used, and q restores the terminal; all over one connection.
func TestTopScreen(t *testing.T) {
	d := kit.StartDaemon(t)
	newGuests(t, d, map[string]int{"web": 2, "db": 3, "cache": 1})
	s := startTop(t, d, "--sort", "name")
	s.press(t, "", "cache db web", "guests 3  ")
	for _, want := range []string{" 3/64 ", "tasks 6 ", "NAME↑", "q quit"} {
		s.press(t, "", "", want)
	}
	connection := sockets(t, s.cmd.Process.Pid)
	s.press(t, "p", "db web cache", "TASKS↓")
	s.press(t, "p", "cache web db", "TASKS↑")
	s.press(t, "i", "db web cache", "TASKS↓")
	s.press(t, "n", "cache db web", "NAME↑")
	s.press(t, "/", "", "filter:")
	s.press(t, "B", "db web", "filter: B") // in any case
	s.press(t, "\r", "db web", "guests 2 of 3  ")
	s.press(t, "\x1b", "cache db web", "q quit")
	s.press(t, "\x1b[B\x1b[B", "cache db web", "\ndb") // the lowest line has the whole name
	s.press(t, "?", "", "any key: back")
	s.press(t, "x", "cache db web", "\ndb")
	s.resize(t, 60, 4) // one line for guests: the selected one
	s.press(t, "", "", "\ndb")
	s.until(t, "the selected guest in a line", func() bool { return strings.Count(s.text(), "\n") == 3 && strings.Contains(s.text(), "3/64") })
	s.resize(t, 120, 40)
	s.press(t, "", "cache db web", "")
	d.WantTry(t, 0, "", "guest", "rm", "web")
	s.press(t, "", "cache db", "guests 2  ")
	if now := sockets(t, s.cmd.Process.Pid); now != connection || connection == "" {
		t.Errorf("guest top has the sockets %q, at first %q: it is to keep one connection", now, connection)
	}
	s.Master.WriteString("q")
	s.wantEnd(t)
	d.Stop(t)
}

// sockets are the sockets of a process.
func sockets(t *testing.T, pid int) string {
	t.Helper()
	dir := filepath.Join("/proc", strconv.Itoa(pid), "fd")
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		if to, _ := os.Readlink(filepath.Join(dir, e.Name())); strings.HasPrefix(to, "socket:") {
			all = append(all, to)
		}
	}
	return strings.Join(all, " ")
}

// TestTopEnds: whatever ends it, the terminal is as it was. A daemon that is gone does not: the screen says so until there is one again.
func TestTopEnds(t *testing.T) {
	d := kit.StartDaemon(t)
	path := kit.NewBoundary(t, "top-ends", kit.NeedHierarchy(t, kit.OpenHost(t), "pids"))
	t.Cleanup(func() {
		d.Stop(t)
		unix.Unmount(filepath.Join(d.Dir, "views", "web"), unix.MNT_DETACH) // a dead one, where the test failed
	})
	add := []string{"guest", "add", "web", "--boundary", path, "--controllers", "pids"}
	d.WantTry(t, 0, "added", add...)
	for what, end := range map[string]func(s *topScreen){
		"Ctrl-C":  func(s *topScreen) { s.Master.WriteString("\x03") },
		"SIGTERM": func(s *topScreen) { s.cmd.Process.Signal(unix.SIGTERM) },
		"SIGINT":  func(s *topScreen) { s.cmd.Process.Signal(unix.SIGINT) },
		"SIGHUP":  func(s *topScreen) { s.cmd.Process.Signal(unix.SIGHUP) },
		"SIGQUIT": func(s *topScreen) { s.cmd.Process.Signal(unix.SIGQUIT) },
	} {
		t.Log(what)
		s := startTop(t, d)
		s.press(t, "", "web", "CPU%↓")
		end(s)
		s.wantEnd(t)
	}
	s := startTop(t, d)
	s.press(t, "", "web", "q quit")
	_, worker := d.Worker(t)
	unix.PidfdSendSignal(worker, unix.SIGKILL, nil, 0) // the next one answers
	unix.Close(worker)
	d.Ready(t)
	s.press(t, "", "web", "q quit")
	d.Die(t)
	s.press(t, "", "web", "trying again: cannot reach the daemon at "+d.Socket)
	s.press(t, "n", "web", "NAME↑")
	d.Start(t, kit.Program(t), nil)
	s.press(t, "", "", "guests 0  ")
	s.press(t, "", "", "q quit")
	d.WantTry(t, 0, "added", add...)
	s.press(t, "", "web", "guests 1  ")
	d.Die(t)
	s.press(t, "", "web", "trying again: ")
	s.Master.WriteString("q")
	s.wantEnd(t)
	s = startTop(t, d)
	if err := <-s.ended; s.cmd.ProcessState.ExitCode() != 5 {
		t.Errorf("without a daemon: %v", err)
	}
	s.until(t, "that there is no daemon", func() bool { return strings.Contains(s.Text(), "the daemon is not running") })
	if strings.Contains(s.Text(), "\x1b") {
		t.Errorf("without a daemon: %q", s.Text())
	}
	d.Start(t, kit.Program(t), nil) // clears the dead views
	d.Stop(t)
}

// TestTopManyGuests: on a screen of 12 lines the keys lead through 40 guests; a figure at its limit is red.
func TestTopManyGuests(t *testing.T) {
	d := kit.StartDaemon(t)
	p := kit.NewPlace(t, d, "top-many")
	for i := range 40 {
		path := fmt.Sprintf("%s/g%02d", p.Path, i)
		if err := p.Hierarchy.Create(path, 0o755); err != nil {
			t.Fatal(err)
		}
		d.WantTry(t, 0, "added", "guest", "add", fmt.Sprintf("g%02d", i), "--boundary", path, "--controllers", "pids", "--limit", "pids.max=4")
	}
	for range 4 {
		if err := p.Hierarchy.Attach(p.Path+"/g00", kit.StartSleeper(t)); err != nil {
			t.Fatal(err)
		}
	}
	s := startTop(t, d, "--sort", "name")
	s.press(t, "", "g00 g01 g02 g03 g04 g05 g06 g07 g08", "guests 40  ")
	s.press(t, "G", "g31 g32 g33 g34 g35 g36 g37 g38 g39", "\ng39")
	s.press(t, "\x1b[5~", "g30 g31 g32 g33 g34 g35 g36 g37 g38", "\ng30")
	s.press(t, "g", "g00 g01 g02 g03 g04 g05 g06 g07 g08", "\ng00")
	s.press(t, "/g3\r", "g30 g31 g32 g33 g34 g35 g36 g37 g38", "guests 10 of 40")
	s.Master.WriteString("q")
	s.wantEnd(t)
	if !regexp.MustCompile(`\x1b\[38;5;9m +4/4`).MatchString(s.Text()) {
		t.Errorf("four of four tasks are not red: %q", s.Text())
	}
	d.Stop(t)
}

// TestGuestWatchEnds: "guest show --watch" of a real guest tells of an open file, goes on over the worker's death, and ends with the guest.
func TestGuestWatchEnds(t *testing.T) {
	d := kit.StartDaemon(t)
	p := kit.NewPlace(t, d, "watch")
	d.WantTry(t, 0, "added", p.Add("web")...)
	out, err := os.Create(filepath.Join(d.Dir, "watch"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	start := func(options ...string) *exec.Cmd {
		cmd := exec.Command(kit.Program(t), append([]string{"guest", "show", "web", "--watch", "--interval", "100ms", "--socket", d.Socket}, options...)...)
		cmd.Stdout, cmd.Stderr = out, out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cmd.Process.Kill() })
		return cmd
	}
	said := func(text string) {
		t.Helper()
		kit.Eventually(t, "the watch to say "+strconv.Quote(text), func() bool { return strings.Contains(kit.ReadFile(out.Name()), text) })
	}
	cmd := start()
	said("open         0\n")
	f, err := os.Open(p.At("pids.max"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	said(" open: 0 -> 1\n")
	d.Signal(t, unix.SIGKILL, 0)
	d.Ready(t)
	f.Close()
	said(" open: 1 -> 0\n")
	cmd.Process.Signal(unix.SIGINT)
	if err := cmd.Wait(); err != nil {
		t.Errorf("interrupted: %v", err)
	}
	out.Truncate(0)
	out.Seek(0, 0)
	cmd = start("--json")
	said("\n")
	d.WantTry(t, 0, "", "guest", "rm", "web")
	if cmd.Wait(); cmd.ProcessState.ExitCode() != 6 {
		t.Errorf("after the guest's removal: %v", cmd.ProcessState)
	}
	line, rest, _ := strings.Cut(kit.ReadFile(out.Name()), "\n")
	if !json.Valid([]byte(line)) || !strings.Contains(rest, "no guest") {
		t.Errorf("%q, %q", line, rest)
	}
	d.Stop(t)
}
