package daemon

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
	"github.com/vcgroupfs/vcgroupfs/fs/conn"
	"github.com/vcgroupfs/vcgroupfs/fs/state"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/policy"
)

// logged is a log that a test reads.
type logged struct {
	mu   sync.Mutex
	text strings.Builder // guarded by mu
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// since returns what was logged since it was last asked.
func (l *logged) since() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	text := l.text.String()
	l.text.Reset()
	return text
}

// kept is a holder that keeps nothing, and notes the regions that it forgets.
type kept struct {
	mu     sync.Mutex
	forgot []int // guarded by mu
	fail   error
}

type keptRegion struct {
	*kept
	region int
}

func (k keptRegion) Hold(uint64, int) error { return k.fail }
func (k keptRegion) Drop(uint64)            {}

func (k keptRegion) Forget() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.forgot = append(k.forgot, k.region)
	return k.fail
}

// parts are the parts of a daemon without a holder, with a log, a directory and an arena of their own.
type parts struct {
	*table
	*making
	*removing
	log  *logged
	kept *kept
	dir  string

	boundary   boundaryID // see place
	controller string
}

func newParts(t *testing.T) *parts {
	t.Helper()
	x := &parts{log: &logged{}, kept: &kept{}, dir: t.TempDir()}
	l := logrus.New()
	l.SetOutput(x.log)
	l.SetLevel(logrus.DebugLevel)
	arena, err := state.New(8, 256)
	if err != nil {
		t.Fatal(err)
	}
	// The arena stays mapped: a goroutine of a view may look there after the test's end.
	h, err := host.Open()
	if err != nil {
		t.Skipf("machine: no hierarchy that may be opened: %v", err)
	}
	x.table = newTable(4)
	told := newTelemetry("test", logrus.NewEntry(l), "", func() api.Totals { return totalsOf(x.table.all(), 0, true) })
	t.Cleanup(told.auditor.Close)
	p := paths{x.dir}
	keepers := func(region int) keeper { return keptRegion{x.kept, region} }
	a := &attacher{host: h, paths: p}
	x.removing = &removing{keepers: keepers, paths: p, declarations: "/etc/guests", table: x.table, told: told, attacher: a,
		lookout: newLookout(told.log)}
	x.making = &making{host: h, arena: arena, keepers: keepers, slots: conn.NewSlots(4), paths: p, settle: settle(nil),
		panicked: func() { t.Error("a handler panicked") }, table: x.table, policies: newPolicies(), told: told,
		attacher: a, removing: x.removing, lookout: x.removing.lookout}
	return x
}

// told returns the telemetry of the parts.
func (x *parts) told() *telemetry { return x.making.told }

// guest makes a guest that is in no table.
func (x *parts) guest(name string) *guest {
	return x.newGuest(record{Name: name, Spec: api.GuestSpec{Boundary: "/machines/" + name, Target: x.dir + "/" + name}})
}

// standing enters a guest that is not served.
func (x *parts) standing(r record) *guest {
	g := x.newGuest(r)
	x.put(g)
	return g
}

// events subscribes to the events of all guests; next returns the next one in the form "kind guest reason".
func (x *parts) events(t *testing.T) (next func() string) {
	t.Helper()
	events, cancel := x.told().hub.Subscribe("")
	t.Cleanup(cancel)
	return func() string {
		t.Helper()
		select {
		case e := <-events:
			return strings.TrimSpace(e.Kind + " " + e.Guest + " " + e.Reason)
		case <-time.After(time.Minute):
			t.Fatal("no event")
			return ""
		}
	}
}

// eventually waits for something to be so.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

// fakeGuests has a table, and adds guests that are not served.
type fakeGuests struct {
	*table
	did  []string
	fail error
}

func newFakeGuests() *fakeGuests { return &fakeGuests{table: newTable(9)} }

func (f *fakeGuests) add(r record, _ *policy.Policy) (*guest, bool, error) {
	f.did = append(f.did, "add "+r.Name)
	if f.fail != nil {
		return nil, false, f.fail
	}
	g := &guest{record: r}
	f.put(g)
	return g, true, nil
}

func (f *fakeGuests) remove(g *guest, kind, reason string) {
	f.did = append(f.did, kind+" "+g.record.Name+": "+reason)
	f.forget(g)
}

// done returns what was done since it was last asked.
func (f *fakeGuests) done() string {
	text := strings.Join(f.did, "; ")
	f.did = nil
	return text
}

var errTest = errors.New("it broke")

// write writes a file with a new time.
func write(t *testing.T, dir, name, text string) {
	t.Helper()
	path := filepath.Join(dir, name)
	os.Remove(path)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// wantFault checks an error by its kind and a part of its message; "" for none.
func wantFault(t *testing.T, what string, err error, says string) {
	t.Helper()
	if (err == nil) != (says == "") || err != nil && !strings.Contains(err.Error(), says) {
		t.Errorf("%s: %v; want %q", what, err, says)
	}
}
