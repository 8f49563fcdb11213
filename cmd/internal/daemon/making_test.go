package daemon

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/holder"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/views"
	"github.com/vcgroupfs/vcgroupfs/fs/state"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/policy"
)

// place finds a cgroup in one hierarchy that the default policy shows: for root one of the test's own, for another user
// any, of which it can change nothing. It returns the names of cgroup and controller.
func (x *parts) place(t *testing.T) (id boundaryID, controller string) {
	t.Helper()
	if x.controller == "" {
		x.boundary, x.controller = x.findPlace(t)
	}
	return x.boundary, x.controller
}

func (x *parts) findPlace(t *testing.T) (id boundaryID, controller string) {
	t.Helper()
	for _, hier := range x.host.Hierarchies() {
		if !views.Shown(x.host, hier, policy.Default()) {
			continue
		}
		var paths []string
		if os.Getuid() == 0 {
			path := fmt.Sprintf("/vcgroupfs-test-%d-%s", os.Getpid(), strings.ReplaceAll(t.Name(), "/", "-"))
			if err := hier.Create(path, 0o755); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := hier.RemoveAll(path); err != nil {
					t.Error(err)
				}
			})
			paths = []string{path}
		} else {
			// That of this process stays there.
			if own, err := hier.PathOf(os.Getpid()); err == nil && own != "/" {
				paths = append(paths, own)
			}
			dirs, _ := os.ReadDir(hier.Mountpoint)
			for _, dir := range dirs {
				if dir.IsDir() {
					paths = append(paths, "/"+dir.Name())
				}
			}
		}
		for _, path := range paths {
			if b, err := hier.Boundary(path); err == nil {
				defer b.Close()
				return boundaryID{hier.String(), b.ID(), path}, hier.Names()[0]
			}
		}
	}
	t.Skip("machine: no cgroup below the root of a hierarchy that is shown")
	return boundaryID{}, ""
}

// TestAddFails: what is refused, as what, and that nothing of it stays.
func TestAddFails(t *testing.T) {
	x := newParts(t)
	id, controller := x.place(t)
	full, empty := x.dir+"/full", x.dir+"/empty"
	for _, dir := range []string{full + "/x", empty} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	dead := processRecord(t, "x", sleeper(t).Process.Pid)
	controllers := []string{controller}
	for what, c := range map[string]struct {
		r    record
		kind fault.Kind
		says string
	}{
		"no target":        {record{Spec: api.GuestSpec{Boundary: id.Path, Target: x.dir + "/none"}}, fault.Missing, "make the directory first"},
		"a full target":    {record{Spec: api.GuestSpec{Boundary: id.Path, Target: full}}, fault.Missing, "not empty"},
		"a wrong owner":    {record{Spec: api.GuestSpec{Boundary: id.Path, Target: empty, Owner: "x"}}, fault.Missing, "UID:GID"},
		"no process":       {record{Spec: api.GuestSpec{Pid: 1 << 30, Target: empty, Owner: "1:1", Controllers: controllers}}, fault.Missing, "no such process"},
		"no such cgroup":   {record{Spec: api.GuestSpec{Boundary: id.Path + "/none", Controllers: controllers}}, fault.Missing, "there is no such cgroup"},
		"no namespace":     {record{Spec: api.GuestSpec{Pid: dead.Spec.Pid, Target: empty, Controllers: controllers}}, fault.Missing, "cannot find the boundary"},
		"no controller":    {record{Spec: api.GuestSpec{Boundary: id.Path, Target: empty, Controllers: []string{controller, "name=none"}}}, fault.Unsupported, "this host does not have it"},
		"a removed cgroup": {record{Spec: api.GuestSpec{Target: empty}, Boundaries: []boundaryID{id, {Tree: id.Tree, ID: 1 << 50, Path: "/none"}}}, fault.Failed, "its boundary in the hierarchy " + id.Tree + " is gone"},
		"a lost hierarchy": {record{Spec: api.GuestSpec{Target: empty}, Boundaries: []boundaryID{id, {Tree: "none"}}}, fault.Failed, "no hierarchy none any more"},
		"a limit":          {record{Spec: api.GuestSpec{Target: empty, Limits: map[string]string{"none.max": "1"}}, Boundaries: []boundaryID{id}}, fault.Invalid, "none.max"},
	} {
		c.r.Name = "x"
		p, err := x.policies.of(api.GuestSpec{Controllers: c.r.Spec.Controllers})
		if what == "no controller" {
			p, err = policy.Default(), nil
		}
		if err != nil {
			t.Fatal(what, err)
		}
		g, made, err := x.add(c.r, p)
		wantFault(t, what, err, c.says)
		if g != nil || made || fault.Of(err) != c.kind || len(x.all()) > 0 || len(x.arena.Regions()) > 0 {
			t.Errorf("%s: %v, kind %d, want %d; %d guests", what, g, fault.Of(err), c.kind, len(x.all()))
		}
		if entries, err := os.ReadDir(x.dir + "/views"); err == nil && len(entries) > 0 {
			t.Errorf("%s: %v is left", what, entries)
		}
	}
	x.close()
	_, _, err := x.add(record{Name: "x"}, policy.Default())
	wantFault(t, "while closing", err, "ending")
}

// initRequest is a FUSE_INIT as of Linux 6.9, which sends unanswered requests again.
func initRequest() []byte {
	const (
		headerSize, initSize = 40, 64
		opInit               = 26
		initExt              = 1 << 30 // FUSE_INIT_EXT
		hasResend            = 1 << 7  // FUSE_HAS_RESEND, of flags2
	)
	b := make([]byte, headerSize+initSize)
	put := func(at int, v uint32) { binary.NativeEndian.PutUint32(b[at:], v) }
	put(0, uint32(len(b)))
	put(4, opInit)
	put(8, 2)
	put(headerSize, 7)
	put(headerSize+4, 41)
	put(headerSize+12, initExt)
	put(headerSize+16, hasResend)
	return b
}

// served resumes a guest on a socket in place of a FUSE device, whose other end is the kernel's.
func (x *parts) served(t *testing.T, name string) (g *guest, kernel *os.File) {
	t.Helper()
	id, controller := x.place(t)
	rec := record{Name: name, Spec: api.GuestSpec{Boundary: id.Path, Target: x.paths().targetOf(name),
		Controllers: []string{controller}}, Since: time.Unix(1e9, 0).UTC(), Boundaries: []boundaryID{id}}
	r, held, kernel := x.left(t, rec)
	if err := x.making.resume(r, rec, held); err != nil {
		t.Fatal(err)
	}
	g = x.named(name)
	if len(held) > 0 || g == nil || g.served() == nil {
		t.Fatalf("%v are left over of %v", held, g)
	}
	t.Cleanup(func() { x.remove(g, "", "") })
	return g, kernel
}

// left makes a region as an earlier worker has left it, with the descriptors that the holder has kept.
func (x *parts) left(t *testing.T, rec record) (r *state.Region, held map[uint64]int, kernel *os.File) {
	t.Helper()
	raw, err := json.Marshal(rec)
	if err != nil {
		t.Fatal(err)
	}
	if r, err = x.arena.Allocate(raw); err != nil {
		t.Fatal(err)
	}
	r.SetInit(initRequest())
	r.MarkSetUp()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	kernel = os.NewFile(uintptr(fds[1]), "kernel")
	t.Cleanup(func() { kernel.Close() })
	return r, map[uint64]int{holder.DeviceKey: fds[0]}, kernel
}

func (x *parts) paths() paths { return x.making.paths }

// TestResumeGuest: a guest of the worker before is served again, asked about, and removed.
func TestResumeGuest(t *testing.T) {
	x := newParts(t)
	next := x.events(t)
	g, kernel := x.served(t, "web")
	// FUSE_NOTIFY_RESEND: code 7, without a body.
	b := make([]byte, 64)
	if n, err := kernel.Read(b); err != nil || n != 16 || !bytes.Equal(b[4:8], []byte{7, 0, 0, 0}) && !bytes.Equal(b[4:8], []byte{0, 0, 0, 7}) {
		t.Errorf("%v, %v", b[:n], err)
	}
	info := g.info()
	tree := g.record.Boundaries[0].Tree
	if info.Name != "web" || len(info.Hierarchies) != 1 || info.Boundaries[tree] != g.record.Spec.Boundary || info.Maker.By != api.ByHand {
		t.Errorf("%+v", info)
	}
	if totals := totalsOf(x.all(), 3, true); totals.Guests != 1 || totals.Restarts != 3 || !totals.Healthy {
		t.Errorf("%+v", totals)
	}
	if !isView([]*guest{g}, g.region.Device()) || isView([]*guest{g, x.guest("other")}, 7) {
		t.Error("the view's device")
	}
	if g.frozen() || g.given(g.boundaries()) {
		t.Error("frozen, or given away")
	}
	x.viewEnded(g, nil)
	if x.named("web") != g {
		t.Error("removed at the end of another view")
	}
	if err := x.byName(t.Context(), "web", api.Maker{By: api.ByHand}, true); err != nil {
		t.Fatal(err)
	}
	if got := next(); got != "removed web" || len(x.arena.Regions()) > 0 || g.served() != nil || len(x.kept.forgot) != 1 {
		t.Error(got, x.kept.forgot)
	}
}

// TestViewEnds: a guest whose view is no longer served is removed, but by a worker that hands over.
func TestViewEnds(t *testing.T) {
	x := newParts(t)
	next := x.events(t)
	g, _ := x.served(t, "web")
	s := g.served()
	s.View.Close()
	if got := next(); got != "gone web the view was unmounted" {
		t.Error(got)
	}
	eventually(t, "the guest is removed", func() bool { return x.named("web") == nil })
	g, _ = x.served(t, "db")
	x.close()
	g.served().View.Close()
	<-g.served().Done
	x.viewEnded(g, g.served())
	if x.named("db") != g {
		t.Error("removed while closing")
	}
}

// TestResumeFails: a guest that cannot go on ends, nobody waits for it, and nothing of it is left.
func TestResumeFails(t *testing.T) {
	x := newParts(t)
	next := x.events(t)
	id, controller := x.place(t)
	good := record{Name: "web", Spec: api.GuestSpec{Boundary: id.Path, Controllers: []string{controller}}, Boundaries: []boundaryID{id}}
	gone, wrong := good, good
	gone.Boundaries = []boundaryID{{Tree: id.Tree, ID: 1 << 50, Path: "/none"}}
	wrong.Spec.Policy = "version: 9\n"
	for what, c := range map[string]struct {
		rec   record
		spoil func(*state.Region, map[uint64]int)
		says  string
	}{
		"unreadable": {record{}, nil, "its record makes no sense to this program"},
		"no connection": {good, func(_ *state.Region, held map[uint64]int) {
			unix.Close(held[holder.DeviceKey])
			delete(held, holder.DeviceKey)
		}, "its connection was not kept"},
		"no boundary":       {gone, nil, "is gone"},
		"a wrong policy":    {wrong, nil, "version"},
		"a wrong FUSE_INIT": {good, func(r *state.Region, _ map[uint64]int) { r.SetInit(initRequest()[:41]) }, "FUSE"},
	} {
		r, held, kernel := x.left(t, c.rec)
		if c.spoil != nil {
			c.spoil(r, held)
		}
		err := x.making.resume(r, c.rec, held)
		wantFault(t, what, err, c.says)
		if len(held) > 0 || len(x.arena.Regions()) > 0 || len(x.all()) > 0 {
			t.Errorf("%s: %v, %d guests", what, held, len(x.all()))
		}
		if n, err := kernel.Read(make([]byte, 1)); n > 0 || err == nil && n > 0 {
			t.Errorf("%s: %d, %v: the connection is open", what, n, err)
		}
		if c.rec.Name != "" {
			if got := next(); got != "gone web its boundary is gone, or it was not set up yet" {
				t.Errorf("%s: %q", what, got)
			}
		}
	}
	raw, _ := json.Marshal(good)
	r, err := x.arena.Allocate(raw)
	if err != nil {
		t.Fatal(err)
	}
	wantFault(t, "unfinished", x.making.resume(r, good, nil), "it was being set up")
}

// TestAgreed: a set-up does not wait for a connection that has ended.
func TestAgreed(t *testing.T) {
	x := newParts(t)
	g, _ := x.served(t, "web")
	ended := make(chan struct{})
	if err := agreed(g.served().View.Conn(), ended); err != nil {
		t.Error(err)
	}
}

// TestInside: where a view is attached in a guest, from its spec.
func TestInside(t *testing.T) {
	x := newParts(t)
	g, _ := x.served(t, "web")
	a := x.making.attacher
	if err := a.again(g, g.boundaries()); fault.Of(err) != fault.Invalid || !strings.Contains(err.Error(), "--into") {
		t.Error(err)
	}
	if err := a.attach(g, g.served()); err != nil {
		t.Error(err)
	}
	g.record.Spec.Pid, g.record.Spec.Into = os.Getpid(), &api.Into{Rootfs: "/r", Path: "/x", Tmpfs: true, ProcCgroups: true}
	in, err := a.inside(g, g.served())
	if err != nil || in.Work != x.dir || in.Rootfs != "/r" || in.Path != "/x" || len(in.Dirs) != 1 || len(in.Cgroups) == 0 {
		t.Errorf("%+v, %v", in, err)
	}
	if in, err := a.inside(g, nil); err != nil || len(in.Dirs) > 0 {
		t.Errorf("%+v, %v", in, err)
	}
	// Its record has no start of the process, so the number is another one's.
	if err := a.again(g, g.boundaries()); fault.Of(err) != fault.Invalid || !strings.Contains(err.Error(), "its process has ended") {
		t.Error(err)
	}
	a.detach(g, g.served(), true)
	g.record.Spec.Into = nil
}

// TestEachCgroup: a guest whose root is the host's has nothing to reclaim; of another all boundaries are visited, and
// the cgroups of the same path in hidden hierarchies.
func TestEachCgroup(t *testing.T) {
	x := newParts(t)
	g, _ := x.served(t, "web")
	a := x.making.attacher
	visited := map[bool]int{}
	visit := func(_ *host.Boundary, shown bool) error {
		visited[shown]++
		return nil
	}
	if err := a.eachCgroup(g, g.boundaries(), visit); err != nil || len(visited) > 0 {
		t.Error(err, visited)
	}
	g.record.UID = 1000
	defer func() { g.record.UID = 0 }()
	if err := a.eachCgroup(g, g.boundaries(), visit); err != nil || visited[true] != 1 {
		t.Error(err, visited)
	}
	err := a.eachCgroup(g, g.boundaries(), func(*host.Boundary, bool) error { return errTest })
	wantFault(t, "a failure", err, "in the hierarchy "+g.record.Boundaries[0].Tree+": it broke")
}
