package holder

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// The holder of these tests spawns this test program as its children, which do what a worker and an answerer do on the
// link.

// Variables of the environment for the children.
const (
	diaryVariable = "HOLDER_TEST_DIARY" // file to which each child appends a line when it serves
	failVariable  = "HOLDER_TEST_FAIL"  // file; while it is there workers exit at once
)

func TestMain(m *testing.M) {
	if os.Args[0] == "vcgroupfs" && len(os.Args) == 2 {
		child := map[string]func() error{WorkerCommand: fakeWorker, AnswererCommand: fakeAnswerer}[os.Args[1]]
		if err := child(); err != nil {
			note("%s failed: %v", os.Args[1], err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// note appends a line to the diary.
func note(format string, args ...any) {
	f, err := os.OpenFile(os.Getenv(diaryVariable), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		fmt.Fprintf(f, format+"\n", args...)
		f.Close()
	}
}

// memfd makes a file with a text.
func memfd(text string) int {
	fd, err := unix.MemfdCreate("kept", unix.MFD_CLOEXEC)
	if err != nil {
		panic(err)
	}
	unix.Pwrite(fd, []byte(text), 0)
	return fd
}

func textOf(fd int) string {
	b := make([]byte, 64)
	n, _ := unix.Pread(fd, b, 0)
	return string(b[:max(n, 0)])
}

// fakeWorker has three descriptors kept, drops one of them, and notes what it was given.
func fakeWorker() error {
	if _, err := os.Stat(os.Getenv(failVariable)); err == nil {
		return io.ErrUnexpectedEOF
	}
	w, err := Connect()
	if err != nil {
		return err
	}
	start, held, err := w.Prepare()
	if err != nil {
		return err
	}
	if err := w.Arena.Worker().Hold(); err != nil {
		return err
	}
	go func() {
		for ; ; time.Sleep(10 * time.Millisecond) {
			w.Arena.Beat()
		}
	}()
	var kept []string
	for region, of := range held {
		for key, fd := range of {
			kept = append(kept, fmt.Sprintf("%d/%d=%s", region, key, textOf(fd)))
		}
	}
	slices.Sort(kept)
	if start.Restarts == 0 && start.Reason == "" {
		region, err := w.Arena.Allocate([]byte("not for the holder"))
		if err != nil {
			return err
		}
		region.SetLabel("the view of guest web")
		k := Keep{w, 0}
		for key, text := range []string{"device", "handle", "dropped"} {
			if err := k.Hold(uint64(key), memfd(text)); err != nil {
				return err
			}
		}
		k.Drop(2)
		gone := Keep{w, 1}
		if err := gone.Hold(DeviceKey, memfd("gone")); err != nil {
			return err
		}
		if err := gone.Forget(); err != nil {
			return err
		}
	}
	if err := w.Ready(); err != nil {
		return err
	}
	note("worker %d: %d restarts, reason %q, settings %s, kept %s",
		os.Getpid(), start.Restarts, start.Reason, start.Settings, strings.Join(kept, " "))
	ended := make(chan struct{})
	end := sync.OnceFunc(func() { close(ended) })
	go func() {
		_ = w.Follow(end, end)
		end() // the holder has ended
	}()
	<-ended
	return nil
}

// fakeAnswerer has a listener kept, and notes what it was given.
func fakeAnswerer() error {
	a, kept, err := ConnectAnswerer()
	if err != nil {
		return err
	}
	if err := a.Calls.Life().Hold(); err != nil {
		return err
	}
	var words []string
	for _, l := range kept {
		words = append(words, fmt.Sprintf("%d-%s=%s", l.Key, l.Word, textOf(l.FD)))
	}
	if len(kept) == 0 {
		if err := a.Hold(Listener{7, memfd("listener"), "word"}); err != nil {
			return err
		}
		if err := a.Hold(Listener{8, memfd("dropped"), "word"}); err != nil {
			return err
		}
		a.Drop(8)
	}
	note("answerer %d: settings %s, kept %s", os.Getpid(), a.Settings, strings.Join(words, " "))
	ended := make(chan struct{})
	end := sync.OnceFunc(func() { close(ended) })
	go a.Serves()
	go func() {
		_ = a.Follow(end, func() {
			_ = a.Left()
			end()
		})
		end() // the holder has ended
	}()
	<-ended
	return nil
}

// runningHolder is a holder that runs.
type runningHolder struct {
	*Holder
	t      *testing.T
	dir    string
	logged *strings.Builder // guarded by mu
	mu     *sync.Mutex
	ended  chan error
}

// lockedWriter is what the log writes to.
type lockedWriter struct {
	mu *sync.Mutex
	b  *strings.Builder
}

func (w lockedWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.Write(p)
}

// runHolder runs a holder whose children are this program.
func runHolder(t *testing.T, change func(c *Config)) *runningHolder {
	t.Helper()
	dir := t.TempDir()
	t.Setenv(diaryVariable, filepath.Join(dir, "diary"))
	t.Setenv(failVariable, filepath.Join(dir, "fail"))
	t.Setenv("GOCOVERDIR", t.TempDir()) // a child of a test with -cover writes there
	own, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := Config{
		Socket: dir + "/s", Group: -1, Metrics: "127.0.0.1:0", Notify: dir + "/n", Regions: 2, Handles: 4,
		Watchdog: 20 * time.Second, GiveUp: 60 * time.Second, Program: own, NoBPF: true, Settings: []byte(`{"maxGuests":2}`),
	}
	if change != nil {
		change(&c)
	}
	r := &runningHolder{
		t: t, dir: dir, logged: &strings.Builder{}, mu: &sync.Mutex{}, ended: make(chan error, 1),
	}
	log := logrus.New()
	log.SetOutput(lockedWriter{r.mu, r.logged})
	if r.Holder, err = New(c, logrus.NewEntry(log)); err != nil {
		t.Fatal(err)
	}
	go func() { r.ended <- r.Run(func() { note("announced") }) }()
	return r
}

func (r *runningHolder) log() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.logged.String()
}

func (r *runningHolder) diary() string {
	b, _ := os.ReadFile(filepath.Join(r.dir, "diary"))
	return string(b)
}

const patience = 30 * time.Second

// noted waits until the diary has n lines that begin so, and returns the last one's pid and rest.
func (r *runningHolder) noted(who string, n int) (pid int, rest string) {
	r.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		count := 0
		for line := range strings.Lines(r.diary()) {
			if strings.HasPrefix(line, who+" ") {
				count++
				if _, err := fmt.Sscanf(line, who+" %d:", &pid); err != nil {
					r.t.Fatal(err)
				}
				_, rest, _ = strings.Cut(strings.TrimSpace(line), ": ")
			}
		}
		if count >= n {
			return pid, rest
		}
	}
	r.t.Fatalf("%d times %s is not in the diary: %s\nthe log: %s", n, who, r.diary(), r.log())
	return 0, ""
}

// serves waits until the holder knows that a worker serves.
func (r *runningHolder) serves(pid int) {
	r.t.Helper()
	eventually(r.t, "the worker to serve", func() bool {
		known := make(chan bool, 1)
		r.post(func() { known <- r.supervisor.current.pid == pid && r.supervisor.current.phase == serving })
		return <-known
	})
}

// stop ends the holder as a service manager does.
func (r *runningHolder) stop() error {
	r.t.Helper()
	if err := syscall.Kill(os.Getpid(), unix.SIGTERM); err != nil {
		r.t.Fatal(err)
	}
	return r.wait()
}

func (r *runningHolder) wait() error {
	r.t.Helper()
	select {
	case err := <-r.ended:
		r.Close()
		return err
	case <-time.After(patience):
		r.t.Fatalf("the holder does not end: %s", r.log())
		return nil
	}
}

// fakeManager is the socket of a service manager, and what it was told.
type fakeManager struct {
	conn *net.UnixConn
	told []string
}

func newFakeManager(t *testing.T) *fakeManager {
	t.Helper()
	path := filepath.Join(t.TempDir(), "m")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	return &fakeManager{conn: c}
}

// read reads what there is, and returns all that was told, a line each.
func (m *fakeManager) read() []string {
	buf, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4*8))
	for {
		m.conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		n, oobn, _, _, err := m.conn.ReadMsgUnix(buf, oob)
		if err != nil {
			return m.told
		}
		fds, _ := rights(oob[:oobn])
		closeAll(fds)
		m.told = append(m.told, strings.ReplaceAll(string(buf[:n]), "\n", " "))
	}
}
