package integration

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// bridgeSite is a v2 boundary that a view shows as several v1 hierarchies. On a host whose v1 hierarchies have the usual
// controllers its v2 hierarchy has few, and named hierarchies stand beside them.
type bridgeSite struct {
	hier        *host.Hierarchy
	path        string   // of the boundary
	controllers string   // for --controllers
	names       []string // of hierarchies: the first has limits
	limit       string   // a control file of the first
	values      []string // for it
	none        string   // its content without a limit
	host        string   // the host's file behind it, and its content without a limit
	view        string   // where the view is mounted
}

func newBridgeSite(t *testing.T, name string) *bridgeSite {
	t.Helper()
	h := kit.OpenHost(t)
	s := &bridgeSite{hier: kit.NeedHierarchy(t, h, hierarchy.Unified)}
	switch {
	case !kit.OnV1(h, "memory"):
		s.controllers, s.names = bridgeControllers(h)+",name=one,name=two", []string{"memory", "one", "two"}
		s.limit, s.host, s.values = "memory.limit_in_bytes", "memory.max", []string{"33554432", "67108864", "134217728"}
	case kit.NeedHierarchy(t, h, "hugetlb") == s.hier:
		s.controllers = "hugetlb,name=one,name=two"
		s.names = []string{"hugetlb", "one", "two"}
		s.limit, s.host, s.values = "hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.max", []string{"2097152", "4194304", "8388608"}
	default:
		t.Skip("machine: this host's v2 hierarchy has no controller that a v1 hierarchy can stand for")
	}
	s.none = nolim
	if strings.HasPrefix(s.limit, "hugetlb") {
		s.none = "9223372036852678656" // rounded to pages of 2 MiB
	}
	s.path = kit.NewBoundary(t, name, s.hier)
	return s
}

// mount mounts a view of the site.
func (s *bridgeSite) mount(t *testing.T, more ...string) *bridgeSite {
	t.Helper()
	s.view = kit.MountView(t, append([]string{"--boundary", s.path, "--controllers", s.controllers, "--layout", "v1"}, more...)...).Dir
	return s
}

func (s *bridgeSite) at(path ...string) string {
	return filepath.Join(append([]string{s.view}, path...)...)
}

func (s *bridgeSite) real(path ...string) string {
	return filepath.Join(append([]string{kit.HostDir(s.hier, s.path)}, path...)...)
}

// sleeper starts a process in the boundary.
func (s *bridgeSite) sleeper(t testing.TB) int {
	t.Helper()
	pid := kit.StartSleeper(t)
	if err := s.hier.Attach(s.path, pid); err != nil {
		t.Fatal(err)
	}
	return pid
}

// leaves reports a leaf that a hierarchy shows, and a cgroup of the host that none shows.
func (s *bridgeSite) leaves(t testing.TB) {
	t.Helper()
	filepath.WalkDir(s.view, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Name() == hierarchy.LeafName {
			t.Errorf("%s is shown", path)
		}
		return nil
	})
	filepath.WalkDir(s.real(), func(path string, d os.DirEntry, err error) error {
		rel, _ := filepath.Rel(s.real(), path)
		if err != nil || !d.IsDir() || d.Name() == hierarchy.LeafName {
			return nil
		}
		if !slices.ContainsFunc(s.names, func(h string) bool { return kit.Exists(s.at(h, rel)) }) && !kit.Exists(s.at("memory", rel)) {
			t.Errorf("no hierarchy shows the host's %s", rel)
		}
		return nil
	})
}

// modelDir is a cgroup of the host in the model of a bridge (the rules are those of fs/bridge.go).
type modelDir struct {
	up       *modelDir
	children map[string]*modelDir
	in       map[string]*modelPart // by hierarchy
}

// modelPart is a directory of one hierarchy.
type modelPart struct {
	flags map[string]string // content of files that are copied to children
	limit string
	owner int
	attr  string // an extended attribute
	over  bool
}

func (d *modelDir) part(hier string) *modelPart {
	if p := d.in[hier]; p != nil && !p.over {
		return p
	}
	return nil
}

// member is the directory that a task at d is in, in a hierarchy.
func (d *modelDir) member(hier string) *modelDir {
	for d.part(hier) == nil {
		d = d.up
	}
	return d
}

func (d *modelDir) below(hier string) (names []string) {
	for name, c := range d.children {
		if c.part(hier) != nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func (d *modelDir) within(other *modelDir) bool {
	for ; d != nil; d = d.up {
		if d == other {
			return true
		}
	}
	return false
}

// bridgeModel is what a view of a bridge must show.
type bridgeModel struct {
	s      *bridgeSite
	root   *modelDir
	places map[int]*modelDir // of the tasks
	opens  []modelOpen
}

// modelOpen is an open control file of a directory, which may be removed.
type modelOpen struct {
	fd   int
	part *modelPart
	file string
	path string
}

var modelFlags = []string{"notify_on_release", "cgroup.clone_children"}

func newPart(up *modelPart, none string) *modelPart {
	p := &modelPart{flags: map[string]string{}, limit: none}
	for _, name := range modelFlags {
		p.flags[name] = "0"
		if up != nil {
			p.flags[name] = up.flags[name]
		}
	}
	return p
}

func newBridgeModel(s *bridgeSite, tasks ...int) *bridgeModel {
	m := &bridgeModel{s: s, places: map[int]*modelDir{}}
	m.root = &modelDir{children: map[string]*modelDir{}, in: map[string]*modelPart{}}
	for _, hier := range s.names {
		m.root.in[hier] = newPart(nil, s.none)
	}
	for _, pid := range tasks {
		m.places[pid] = m.root
	}
	return m
}

// find returns a directory of a hierarchy, or nil.
func (m *bridgeModel) find(hier, path string) *modelDir {
	d := m.root
	for name := range strings.SplitSeq(path, "/") {
		if name == "" {
			continue
		}
		if d = d.children[name]; d == nil || d.part(hier) == nil {
			return nil
		}
	}
	return d
}

func (m *bridgeModel) mkdir(hier, path string) string {
	up := m.find(hier, filepath.Dir("/" + path)[1:])
	name := filepath.Base(path)
	if up == nil {
		return "ENOENT"
	}
	d := up.children[name]
	if d != nil && d.part(hier) != nil {
		return "EEXIST"
	}
	if d == nil {
		d = &modelDir{up: up, children: map[string]*modelDir{}, in: map[string]*modelPart{}}
		up.children[name] = d
	}
	d.in[hier] = newPart(up.part(hier), m.s.none)
	return "ok"
}

func (m *bridgeModel) rmdir(hier, path string) string {
	d := m.find(hier, path)
	if d == nil {
		return "ENOENT"
	}
	if len(d.below(hier)) > 0 {
		return "EBUSY"
	}
	for _, place := range m.places {
		if place.within(d) {
			return "EBUSY"
		}
	}
	d.in[hier].over = true
	for one := range d.in {
		if d.part(one) != nil {
			return "ok"
		}
	}
	delete(d.up.children, filepath.Base(path))
	return "ok"
}

func (m *bridgeModel) move(hier, path string, pid int) string {
	d := m.find(hier, path)
	if d == nil {
		return "ENOENT"
	}
	if m.places[pid].member(hier) != d {
		m.places[pid] = d
	}
	return "ok"
}

func (m *bridgeModel) members(hier string, d *modelDir) string {
	var pids []string
	for _, pid := range slices.Sorted(maps.Keys(m.places)) {
		if m.places[pid].member(hier) == d {
			pids = append(pids, strconv.Itoa(pid))
		}
	}
	return strings.Join(pids, " ")
}

// check compares a directory of a hierarchy with what the view shows.
func (m *bridgeModel) check(hier, path string, d *modelDir) (wrong []string) {
	s, p := m.s, d.part(hier)
	want := func(what, got, want string) {
		if got != want {
			wrong = append(wrong, fmt.Sprintf("%s/%s: %s is %q, want %q", hier, path, what, got, want))
		}
	}
	at := s.at(hier, path)
	want("the list of directories", dirsIn(at), strings.Join(d.below(hier), " "))
	var st unix.Stat_t
	if err := unix.Stat(at, &st); err != nil {
		want("stat", kit.ErrnoName(err), "")
		return wrong
	}
	want("the link count", fmt.Sprint(st.Nlink), fmt.Sprint(2+len(d.below(hier))))
	want("the owner", fmt.Sprint(st.Uid), fmt.Sprint(p.owner))
	for _, file := range []string{"tasks", kit.Procs} {
		want(file, strings.Join(strings.Fields(kit.ReadFile(filepath.Join(at, file))), " "), m.members(hier, d))
	}
	for file, value := range p.flags {
		want(file, strings.TrimSpace(kit.ReadFile(filepath.Join(at, file))), value)
	}
	if hier == s.names[0] {
		want(s.limit, strings.TrimSpace(kit.ReadFile(filepath.Join(at, s.limit))), p.limit)
	} else {
		want("is "+s.limit+" there", fmt.Sprint(kit.Exists(filepath.Join(at, s.limit))), "false")
	}
	if d != m.root {
		attr := p.attr
		if attr == "" {
			attr = "ENODATA"
		}
		want("the attribute", attrOf(at, crossedAttr), attr)
	}
	return wrong
}

// checkAll compares all.
func (m *bridgeModel) checkAll() (wrong []string) {
	var each func(hier, path string, d *modelDir)
	each = func(hier, path string, d *modelDir) {
		wrong = append(wrong, m.check(hier, path, d)...)
		for _, name := range d.below(hier) {
			each(hier, filepath.Join(path, name), d.children[name])
		}
	}
	for _, hier := range m.s.names {
		each(hier, "", m.root)
	}
	for _, o := range m.opens {
		got := "ok"
		if n, err := unix.Pread(o.fd, make([]byte, 4096), 0); n < 0 {
			got = kit.ErrnoName(err)
		}
		want := "ok"
		if o.part.over {
			want = "ENODEV"
		}
		if got != want {
			wrong = append(wrong, fmt.Sprintf("a read of the open %s: %s, want %s", o.path, got, want))
		}
	}
	return wrong
}

// step does one random operation in the view and the model, and says what it was and what each answered.
func (m *bridgeModel) step(r *rand.Rand) (what, got, want string) {
	hier := m.s.names[r.IntN(len(m.s.names))]
	path := randomPath(r)
	at := m.s.at(hier, path)
	d := m.find(hier, path)
	// needs is the answer of an operation of a directory.
	needs := func(answer string) string {
		if d == nil {
			return "ENOENT"
		}
		return answer
	}
	switch n := r.IntN(100); {
	case n < 32:
		return "mkdir " + hier + "/" + path, kit.Word(unix.Mkdir(at, 0o755)), m.mkdir(hier, path)
	case n < 64:
		return "rmdir " + hier + "/" + path, kit.Rmdir(at), m.rmdir(hier, path)
	case n < 70:
		if r.IntN(4) == 0 {
			path = ""
		}
		pids := slices.Sorted(maps.Keys(m.places))
		pid := pids[r.IntN(len(pids))]
		file := filepath.Join(path, []string{"tasks", kit.Procs}[r.IntN(2)])
		return fmt.Sprintf("move %d to %s/%s", pid, hier, file), kit.WriteFile(m.s.at(hier, file), strconv.Itoa(pid)), m.move(hier, path, pid)
	case n < 76:
		value, file := strconv.Itoa(r.IntN(2)), modelFlags[r.IntN(len(modelFlags))]
		if d != nil {
			d.part(hier).flags[file] = value
		}
		return "write " + value + " to " + hier + "/" + path + "/" + file, kit.WriteFile(filepath.Join(at, file), value), needs("ok")
	case n < 83:
		value := m.s.values[r.IntN(len(m.s.values))]
		want = needs("ok")
		if hier != m.s.names[0] {
			want = kit.WriteFile(filepath.Join(at, "no-such-file"), value)
		} else if d != nil {
			d.part(hier).limit = value
		}
		return "limit of " + hier + "/" + path, kit.WriteFile(filepath.Join(at, m.s.limit), value), want
	case n < 90:
		owner := r.IntN(3)
		if d != nil {
			d.part(hier).owner = owner
		}
		return fmt.Sprintf("chown %d %s/%s", owner, hier, path), kit.Word(os.Chown(at, owner, owner)), needs("ok")
	case n < 93:
		value := strconv.Itoa(r.IntN(100))
		if d != nil {
			d.part(hier).attr = value
		}
		return "setxattr " + hier + "/" + path, kit.Word(unix.Setxattr(at, crossedAttr, []byte(value), 0)), needs("ok")
	case n < 97:
		file := append([]string{"tasks", kit.Procs}, modelFlags...)[r.IntN(4)]
		fd, err := unix.Open(filepath.Join(at, file), unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err == nil && d != nil {
			m.opens = append(m.opens, modelOpen{fd, d.part(hier), file, hier + "/" + path + "/" + file})
		}
		return "open " + hier + "/" + path + "/" + file, kit.Word(err), needs("ok")
	default:
		if len(m.opens) == 0 {
			return "nothing", "", ""
		}
		i := r.IntN(len(m.opens))
		o := m.opens[i]
		m.opens = slices.Delete(m.opens, i, i+1)
		defer unix.Close(o.fd)
		value := "1"
		if !slices.Contains(modelFlags, o.file) {
			value = "4194304" // no process has it
		}
		_, err := unix.Pwrite(o.fd, []byte(value), 0)
		switch {
		case o.part.over:
			want = "ENODEV"
		case value == "1":
			o.part.flags[o.file], want = "1", "ok"
		default:
			want = "ESRCH"
		}
		return "write to the open " + o.path, kit.Word(err), want
	}
}

func randomPath(r *rand.Rand) string {
	path := ""
	for range 1 + r.IntN(3) {
		path = filepath.Join(path, string("abc"[r.IntN(3)]))
	}
	return path
}

// seedOf is the seed of a random test: VCGROUPFS_SEED, or a new one, which is printed.
func seedOf(t *testing.T) *rand.Rand {
	t.Helper()
	seed, err := strconv.ParseUint(os.Getenv("VCGROUPFS_SEED"), 10, 64)
	if err != nil {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("VCGROUPFS_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 1))
}

// TestBridgeModel: any sequence of operations in several hierarchies of one view has the answers and the effects of a model of
// the bridge.
func TestBridgeModel(t *testing.T) {
	s := newBridgeSite(t, t.Name()).mount(t)
	m := newBridgeModel(s, s.sleeper(t), s.sleeper(t), s.sleeper(t))
	r := seedOf(t)
	t.Cleanup(func() {
		for _, o := range m.opens {
			unix.Close(o.fd)
		}
	})
	var trace []string
	answers := map[string]int{}
	// Most of a few random removals find no directory or one with children: the sequence goes on until some have succeeded.
	for i := 0; i < kit.Scaled(t, 2000, 250) || answers["rmdir ok"] < 5; i++ {
		what, got, want := m.step(r)
		trace = append(trace, what+": "+got)
		verb, _, _ := strings.Cut(what, " ")
		answers[verb+" "+got]++
		var wrong []string
		if got != want {
			wrong = append(wrong, fmt.Sprintf("%s: %s, want %s", what, got, want))
		} else if i%50 == 49 {
			wrong = m.checkAll()
		}
		if len(wrong) > 0 {
			t.Fatalf("after %d operations:\n%s\nthe last operations:\n%s", i+1, strings.Join(wrong, "\n"), strings.Join(trace[max(0, len(trace)-60):], "\n"))
		}
	}
	s.leaves(t)
	t.Log(answers)
}

// TestBridgeConcurrent: each hierarchy of a view is changed by a program of its own, at the same time. What one makes and removes
// is there and gone for it, whatever the others do; no process leaves the boundary, and all can be removed at the end.
func TestBridgeConcurrent(t *testing.T) {
	s := newBridgeSite(t, t.Name()).mount(t)
	r := seedOf(t)
	var wg sync.WaitGroup
	models := map[string]*bridgeModel{}
	pids := map[string]int{}
	for _, hier := range s.names {
		models[hier], pids[hier] = newBridgeModel(s), s.sleeper(t)
	}
	for _, hier := range s.names {
		r := rand.New(rand.NewPCG(r.Uint64(), 2))
		wg.Go(func() {
			m, pid := models[hier], strconv.Itoa(pids[hier])
			for range kit.Scaled(t, 700, 60) {
				path := randomPath(r)
				at := s.at(hier, path)
				var what, got, want string
				switch n := r.IntN(10); {
				case n < 4:
					what, got, want = "mkdir", kit.Word(unix.Mkdir(at, 0o755)), m.mkdir(hier, path)
				case n < 7:
					what, got = "rmdir", kit.Rmdir(at)
					if want = "EBUSY"; got != want { // for a process of another hierarchy
						want = m.rmdir(hier, path)
					}
				case n < 9:
					want = "ok"
					if m.find(hier, path) == nil {
						want = "ENOENT"
					}
					what, got = "move", kit.WriteFile(filepath.Join(at, "tasks"), pid)
				default:
					what, want = "list", "ENOENT"
					if d := m.find(hier, path); d != nil {
						want = strings.Join(d.below(hier), " ")
					}
					got = dirsIn(at)
				}
				if got != want {
					t.Errorf("%s %s/%s: %s, want %s", what, hier, path, got, want)
					return
				}
			}
		})
	}
	wg.Wait()
	for hier, m := range models {
		at, err := s.hier.PathOf(pids[hier])
		if err != nil || at != s.path && !strings.HasPrefix(at, s.path+"/") {
			t.Errorf("a process of %s is at %s now: %v", hier, at, err)
		}
		m.places[pids[hier]] = m.root
		if got := kit.WriteFile(s.at(hier, "tasks"), strconv.Itoa(pids[hier])); got != "ok" {
			t.Errorf("moving a process to the root of %s: %s", hier, got)
		}
	}
	// A move in one hierarchy need not be one in another.
	for _, pid := range pids {
		for _, hier := range s.names {
			if got := kit.WriteFile(s.at(hier, "tasks"), strconv.Itoa(pid)); got != "ok" {
				t.Errorf("moving a process to the root of %s: %s", hier, got)
			}
		}
	}
	s.leaves(t)
	for hier, m := range models {
		for _, pid := range pids {
			m.places[pid] = m.root
		}
		if wrong := structureOf(m, hier); len(wrong) > 0 {
			t.Errorf("at the end: %s", strings.Join(wrong, "\n"))
		}
	}
	for hier := range models {
		removeBelow(t, s.at(hier))
	}
	if left := kit.CgroupsIn(s.real()); len(left) > 1 || len(left) == 1 && left[0] != hierarchy.LeafName {
		t.Errorf("left on the host: %q", left)
	}
}

// structureOf compares the directories of one hierarchy.
func structureOf(m *bridgeModel, hier string) (wrong []string) {
	var each func(path string, d *modelDir)
	each = func(path string, d *modelDir) {
		if got, want := dirsIn(m.s.at(hier, path)), strings.Join(d.below(hier), " "); got != want {
			wrong = append(wrong, fmt.Sprintf("%s/%s has %q, want %q", hier, path, got, want))
		}
		for _, name := range d.below(hier) {
			each(filepath.Join(path, name), d.children[name])
		}
	}
	each("", m.root)
	return wrong
}

// removeBelow removes all directories below one.
func removeBelow(t *testing.T, dir string) {
	t.Helper()
	for name := range strings.FieldsSeq(dirsIn(dir)) {
		path := filepath.Join(dir, name)
		removeBelow(t, path)
		if got := kit.Rmdir(path); got != "ok" {
			t.Errorf("rmdir %s: %s", path, got)
		}
	}
}
