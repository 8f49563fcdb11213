package fs

import (
	"errors"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/fs/conn"
	"github.com/vcgroupfs/vcgroupfs/fs/state"
	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/policy"
)

func viewOf(t *testing.T, controllers ...string) *View {
	t.Helper()
	p, err := policy.Default().WithControllers(controllers)
	if err != nil {
		t.Fatal(err)
	}
	return &View{policy: p}
}

func TestParseSubtree(t *testing.T) {
	for _, c := range []struct {
		in   string
		want string
		err  error
	}{
		{"+memory -pids\n", "[+memory -pids]", nil}, {"", "[]", nil}, {"  +memory  ", "[+memory]", nil}, {"-io", "[-io]", nil},
		{"+memory +pids -memory", "[+pids -memory]", nil}, {"-io +io", "[+io]", nil}, {"memory", "[]", unix.EINVAL}, {"+", "[]", unix.EINVAL}, {"+freezer", "[]", unix.EINVAL},
		{"+memory\t+pids", "[]", unix.EINVAL}, {"+memory\x00+io", "[+memory]", nil}, {"+memory +bogus", "[]", unix.EINVAL},
	} {
		got, err := parseSubtree([]byte(c.in))
		text := "["
		for i, w := range got {
			if i > 0 {
				text += " "
			}
			text += w
		}
		if text += "]"; text != c.want || !errors.Is(err, c.err) {
			t.Errorf("%q: %s, %v; want %s, %v", c.in, text, err, c.want, c.err)
		}
	}
}

func TestFilters(t *testing.T) {
	v := viewOf(t, "memory", "pids")
	h := &handle{hier: &viewHierarchy{}}
	if got, err := v.filterControllers(h, []byte("cpu memory io pids\n")); string(got) != "memory pids\n" || err != nil {
		t.Errorf("controllers: %q, %v", got, err)
	}
	if got, err := v.filterControllers(h, []byte("cpu\n")); len(got) != 0 || err != nil {
		t.Errorf("no controllers: %q, %v", got, err)
	}
	hier := &viewHierarchy{version: hierarchy.V1}
	in := "nr_descendants 3\nnr_subsys_cpu 4\nnr_subsys_memory 4\nnr_dying_descendants 1\nnr_dying_subsys_cpu 1\nnr_dying_subsys_pids 2\n"
	want := "nr_descendants 3\nnr_subsys_memory 4\nnr_dying_descendants 1\nnr_dying_subsys_pids 2\n"
	if got := v.filterStat(hier, 9, []byte(in)); string(got) != want {
		t.Errorf("cgroup.stat below: %q", got)
	}
}

func TestParsePid(t *testing.T) {
	for in, want := range map[string]int{"1\n": 1, " 0x10 ": 16, "010": 8, "+5": 5, "0": 0, "7\x00junk": 7} {
		if got, err := parsePid([]byte(in)); got != want || err != nil {
			t.Errorf("%q: %d, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "\n", "-1", "1 2", "x", "2147483648", "99999999999999999999", "1x"} {
		if got, err := parsePid([]byte(in)); err != unix.EINVAL {
			t.Errorf("%q: %d, %v", in, got, err)
		}
	}
}

func TestParseTrigger(t *testing.T) {
	for in, want := range map[string]string{"some 150000 2000000\n": "some 150000 2000000", "full 1 10000000": "full 1 10000000",
		"some150000\t02000000x": "some 150000 2000000", "some 1 2000000 1": "some 1 2000000"} {
		if got, err := parseTrigger(in); got != want || err != nil {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "some", "some 1 500000", "some 0 2000000", "some 3000000 2000000", "any 1 2000000", "some 1 12000000",
		" some 1 2000000", "some 0x1 2000000", "some +1 2000000", "some 4294967297 2000000", "some 1 -2000000"} {
		if got, err := parseTrigger(in); err == nil {
			t.Errorf("%q is taken as %q", in, got)
		}
	}
}

func TestOwnership(t *testing.T) {
	for _, r := range []ownership{{0, 0, 0o755}, {524288, 1, 0o7777}, {1, 2, noMode}, {4294967294, 0, 0}} {
		if got, ok := parseOwnership([]byte(r.String())); !ok || got != r {
			t.Errorf("%v becomes %v, %t", r, got, ok)
		}
	}
	for _, raw := range []string{"", "x", "1", "-1 -1 7"} {
		if r, ok := parseOwnership([]byte(raw)); ok {
			t.Errorf("%q is a record: %v", raw, r)
		}
	}
	r := ownership{uid: 5, gid: 6, mode: 0o640}
	for _, c := range []struct {
		who  credentials
		want bool
	}{{credentials{uid: 5}, true}, {credentials{uid: 9, gid: 6}, false}, {credentials{uid: 9}, false}} {
		if got := r.allows(c.who, 0o2); got != c.want {
			t.Errorf("%v may write: %t", c.who, got)
		}
	}
	for _, c := range [][3]string{{"a/b/c", "a/b/d", "a/b"}, {"a", "ab", ""}, {"", "x", ""}, {"a/b", "a/b", "a/b"}} {
		if got := commonPath(c[0], c[1]); got != c[2] {
			t.Errorf("common path of %q and %q: %q", c[0], c[1], got)
		}
	}
}

func TestQuota(t *testing.T) {
	q := quota{bound: policy.Quota{Cgroups: 2}, count: -1}
	real := 0
	take := func() bool {
		ok, err := q.reserve(func() (int, error) { return real, nil })
		if err != nil {
			t.Fatal(err)
		}
		if ok {
			real++
		}
		return ok
	}
	for i, want := range []bool{true, true, false} {
		if got := take(); got != want {
			t.Errorf("cgroup %d of two: %t", i+1, got)
		}
	}
	real-- // the host removes one
	for _, want := range []bool{true, false} {
		if got := take(); got != want {
			t.Errorf("after the host removed one: %t, want %t", got, want)
		}
	}
	q.free()
	real--
	if !take() {
		t.Error("what was given back is not there")
	}
}

func TestBackings(t *testing.T) {
	table := backingTable{state: privateState(t)}
	a, spare := table.put(1, 10, 100)
	if spare || table.get(1) != a || table.drop(a) != nil {
		t.Fatal("a backing in use was given up")
	}
	if b, spare := table.put(1, 10, 101); !spare || b != a {
		t.Error("two backings for a node")
	}
	table.drop(a)
	if old := table.drop(a); old != nil || table.get(1) != a {
		t.Error("an idle backing is not kept")
	}
	table.drop(a)
	if table.discard(1, 10) != nil || table.discard(1, 11) != a || table.get(1) != nil {
		t.Error("a backing for another file stays, or one for the same goes")
	}
	closed := 0
	for n := range uint64(state.MaxIdle + 5) {
		b, _ := table.put(n+2, n, int32(n+1))
		if table.drop(b) != nil {
			closed++
		}
	}
	if closed != 5 {
		t.Errorf("%d of %d idle backings were given up", closed, state.MaxIdle+5)
	}
}

// TestLives: a new file of the same name has another life than the one before it, and than those that are still read.
func TestLives(t *testing.T) {
	region := privateState(t)
	v := &View{state: region, names: region.Arena(), backings: backingTable{state: region}}
	pids := &viewHierarchy{version: hierarchy.V2}
	if v.lifeOf(pids, 7, "cgroup.procs", 5) != 0 || v.lifeOf(&viewHierarchy{version: hierarchy.V1}, 7, "pids.max", 5) != 0 {
		t.Error("a file that lives as long as its cgroup has another life than the first")
	}
	read := map[uint64]bool{}
	before := uint64(lives)
	for ino := range uint64(10 * lives) {
		life := v.lifeOf(pids, 7, "pids.max", 1000+ino)
		if life == before || read[life] || life >= lives {
			t.Fatalf("file %d has life %d, which is in use", ino, life)
		}
		if again := v.lifeOf(pids, 7, "pids.max", 1000+ino); again != life {
			t.Fatalf("file %d has life %d, then %d", ino, life, again)
		}
		if before = life; ino%10 == 0 && len(read) < lives-2 {
			read[life] = true
			v.backings.put(v.fileNode(pids, 7, "pids.max", life), 1000+ino, int32(ino+1))
		}
	}
	n, st := v.node(v.fileNode(pids, 7, "pids.max", 9))
	if v.hierarchies = []*viewHierarchy{pids}; st.Ok() {
		t.Error("a node of no hierarchy")
	}
	if n, st = v.node(v.fileNode(pids, 7, "pids.max", 9)); !st.Ok() || n.life != 9 || n.dir != 7 || n.file != "pids.max" {
		t.Errorf("%+v, %v", n, st)
	}
}

// TestStaleOpens: the first open of what is gone is to be looked up again, the second fails, whatever it has found.
func TestStaleOpens(t *testing.T) {
	var s staleOpens
	const first, second = fuse.Status(unix.ESTALE), fuse.Status(unix.ENODEV)
	const a, b = 1 << fileShift, 2 << fileShift // other files
	for i, c := range []struct {
		node uint64
		tid  uint32
		want fuse.Status
	}{{a, 1, first}, {a, 2, first}, {b, 1, first}, {a + 7, 1, second}, {a, 1, first}, {a, 1, second}, {b, 1, second}, {a, 2, second}} {
		if got := s.answer(c.node, c.tid); got != c.want {
			t.Errorf("%d: node %#x, thread %d: %v, want %v", i, c.node, c.tid, got, c.want)
		}
	}
	s.answer(a, 1)
	s.found(a+9, 1)
	if s.some || s.answer(a, 1) != first {
		t.Error("an open that succeeded still comes back")
	}
	for i := range uint64(100) {
		s.answer(i<<fileShift|a, 9)
	}
	if s.answer(a, 9) != first {
		t.Error("more is remembered than there is room for")
	}
}

// TestSettling: what is to go waits for the opens of it that are under way and for no others; those that follow are told.
func TestSettling(t *testing.T) {
	var s settling
	one, other := &viewHierarchy{}, &viewHierarchy{}
	held, closed, beside := &handle{hier: one, dir: 5, file: "pids.max"}, &handle{hier: one, dir: 5, file: "pids.max"}, &handle{hier: other, dir: 5}
	for _, h := range []*handle{held, closed, beside} {
		if !s.admit(h) {
			t.Fatal("an open does not pass through, and nothing is to go")
		}
	}
	began := time.Now()
	done := make(chan func())
	go func() { done <- s.begin(nil, &ending{hier: one, dir: 5}) }()
	eventually(t, "the ending", func() bool { return s.ends(one, 5, "pids.max") })
	if s.admit(&handle{hier: one, dir: 5}) || !s.admit(&handle{hier: one, dir: 6}) || s.ends(other, 5, "pids.max") {
		t.Error("the ending is of other files")
	}
	s.settle(closed)
	end := <-done
	if took := time.Since(began); took < settleTime/2 {
		t.Errorf("it waited %v for an open that is held", took)
	}
	end()
	if s.ends(one, 5, "pids.max") || s.endings != nil {
		t.Error("it goes on")
	}
	s.settle(held)
	e := &ending{hier: one, controllers: []string{"pids"}}
	defer s.begin(nil, e)()
	for file, want := range map[string]bool{"pids.max": true, "memory.max": false, "cgroup.procs": false} {
		if got := s.ends(one, 77, file); got != want {
			t.Errorf("%s goes with its controller: %t", file, got)
		}
	}
	for range 3 * fewOpens {
		s.admit(&handle{hier: other, dir: 5})
	}
	time.Sleep(settleTime)
	for range 4 * fewOpens {
		s.admit(&handle{hier: other, dir: 5})
	}
	if len(s.opens) > 5*fewOpens {
		t.Errorf("%d opens are kept", len(s.opens))
	}
}

// privateState is a state of the test's own.
func privateState(t *testing.T) *state.Region {
	t.Helper()
	a, err := state.New(1, 64)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	r, err := a.Allocate(nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestBackingsReloaded: the next server finds the idle backings, and those that opens use.
func TestBackingsReloaded(t *testing.T) {
	region := privateState(t)
	table := backingTable{state: region}
	region.SetLastBacking(3)
	used, _ := table.put(1, 10, 1)
	idle, _ := table.put(2, 20, 2)
	again, _ := table.put(3, 30, 3)
	table.drop(idle)
	table.drop(again)
	table.get(3) // in use again, with a place among the idle
	next := backingTable{state: region}
	if b := next.adopt(1, 10, 1); *b != (backing{node: 1, file: 10, id: 1, uses: 1, kept: -1}) || used.id != b.id {
		t.Errorf("%+v", b)
	}
	next.adopt(3, 30, 3)
	next.load()
	if b := next.get(2); b == nil || b.id != 2 || b.file != 20 {
		t.Errorf("the idle one: %+v", b)
	}
	if b := next.get(3); b == nil || b.uses != 2 || b.kept >= 0 {
		t.Errorf("the one in use again: %+v", b)
	}
}

func TestExpectations(t *testing.T) {
	var e expectations
	e.add(1, "a")
	e.add(1, "a")
	for i, want := range []bool{true, true, false} {
		if got := e.remove(1, "a"); got != want {
			t.Errorf("taken %d times, expected twice: %t", i+1, got)
		}
	}
	if e.remove(2, "a") {
		t.Error("another directory's was taken")
	}
	if e.want != nil {
		t.Errorf("kept: %v", e.want)
	}
	for i := range 3 * maxExpected {
		e.add(uint64(i), "a")
	}
	if len(e.want) > maxExpected {
		t.Errorf("%d are waited for, want at most %d", len(e.want), maxExpected)
	}
}

// The queue does jobs in order, one at a time, keeps so many at most, and holds nothing while it is idle.
func TestEventQueue(t *testing.T) {
	q := newEventQueue(nil)
	before := runtime.NumGoroutine()
	gate := make(chan struct{})
	var done []int
	q.do(func() { <-gate })
	eventually(t, "the first job", func() bool { q.mu.Lock(); defer q.mu.Unlock(); return len(q.jobs) == 0 })
	for i := range queueLength {
		if !q.do(func() { done = append(done, i) }) {
			t.Fatalf("job %d was refused", i)
		}
	}
	if q.do(func() {}) {
		t.Error("more jobs wait than may")
	}
	close(gate)
	eventually(t, "all jobs", func() bool { q.mu.Lock(); defer q.mu.Unlock(); return q.idle == nil && q.jobs == nil })
	if len(done) != queueLength || !slices.IsSorted(done) {
		t.Errorf("%d jobs were done, or not in order", len(done))
	}
	eventually(t, "the goroutine's end", func() bool { return runtime.NumGoroutine() <= before })
}

// After close no job begins; close waits for one that is being done.
func TestEventQueueClose(t *testing.T) {
	q := newEventQueue(nil)
	started, ended := make(chan struct{}), false
	q.do(func() { close(started); time.Sleep(invalidationWait / 5); ended = true })
	<-started
	q.do(func() { t.Error("a job began after close") })
	q.close()
	if !ended {
		t.Error("close did not wait")
	}
	if q.do(func() { t.Error("a job began after close") }) {
		t.Error("a closed queue takes jobs")
	}
	q.close()
	var none *eventQueue
	none.close()
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 5000 {
		if ok() {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatalf("waited in vain for %s", what)
}

func TestStatus(t *testing.T) {
	if status(nil) != fuse.OK || status(unix.EBUSY) != fuse.EBUSY || status(errors.New("x")) != fuse.EIO {
		t.Error("errors become other errnos")
	}
}

// TestBeginAgain: what a request that is sent again finds on the host is read after the dead server's last call there,
// which goes on while the kernel ends that server.
func TestBeginAgain(t *testing.T) {
	const op, resend = uint32(conn.OpRmdir), uint64(1) << 63
	v := viewOf(t)
	v.state = privateState(t)
	there := uint64(1)
	before := func() (a, b, c uint64) { return 0, there, 0 }
	v.begin("rmdir", &fuse.InHeader{Unique: 7, Opcode: op}, before)
	v.settle = func() { there = 0 }
	var found uint64
	ch := v.begin("rmdir", &fuse.InHeader{Unique: 7 | resend, Opcode: op}, func() (a, b, c uint64) {
		found = there
		return before()
	})
	if !ch.again || ch.done || ch.entry.B != 1 || found != 0 {
		t.Errorf("again %t, done %t, before %d, now %d", ch.again, ch.done, ch.entry.B, found)
	}
}
