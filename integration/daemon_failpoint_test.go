package integration

import (
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// A program that is built with the tag failpoints kills its worker at the point that VCGROUPFS_FAILPOINT names, once:
//
//	OP-begun    what is to be done is recorded, nothing is done
//	OP-made     the host has done it, and that is not recorded
//	OP-done     that is recorded, the guest has no reply
//	OP-replied  the guest has it
//
// Whatever the point, the guest's operation succeeds, and has its effect on the host exactly once: the host's own inotify
// counts. What the host does meanwhile, before the next worker goes on, comes after what was made and before what was not.

// crossing is one operation of a guest that a worker's death crosses.
type crossing struct {
	t       *testing.T
	site    kit.Site
	d       *kit.Daemon
	fd, pid int    // what the operation works with: an open file, a process
	madeIno uint64 // of the cgroup that the host made
	watch   int    // inotify, on the host
	mask    uint32
	counted string // name of what the watch counts
	stored  string // the host's name of the attribute that the guest sets
}

func (x *crossing) real(name string) string { return x.site.Native("w", name) }
func (x *crossing) seen(name string) string { return x.site.At("w", name) }

// rows are what is expected of an operation at each point, alone and with what the host does in between.
func (op crossedOp) rows() (rows []interference) {
	alone := interference{op.name, "begun made done replied", "", nil, []string{"ok"}, []string{op.want}, []int{1}}
	if mask, _, _ := op.effect(); mask == 0 {
		alone.effects = []int{0}
	}
	rows = append(rows, alone)
	for _, row := range interferences() {
		if row.op == op.name {
			rows = append(rows, row)
		}
	}
	return rows
}

// TestFailPointsNatively does the same where nobody dies: what is expected of a kill is what happens when the host's doing
// comes just before or just after the operation.
func TestFailPointsNatively(t *testing.T) {
	for _, op := range crossedOps() {
		for _, row := range op.rows() {
			if op.name == "release" {
				continue
			}
			t.Run(op.name+" "+row.points+row.what, func(t *testing.T) {
				x := &crossing{t: t, site: kit.NewSite(t, kit.OpenHost(t), "cross-natively"), fd: -1, stored: crossedAttr}
				x.prepare(op)
				x.openBefore(op)
				if row.do != nil && row.points == "begun" {
					row.do(x)
				}
				x.effects()
				answer := op.do(x)
				effects := x.effects()
				if row.do != nil && row.points != "begun" {
					row.do(x)
				}
				x.judge(op, row, answer, effects, false)
			})
		}
	}
}

// TestFailPoints crosses each operation with a kill at each point.
func TestFailPoints(t *testing.T) { crossAll(t, false) }

// TestFailPointsBeside does so with what the host does in between.
func TestFailPointsBeside(t *testing.T) { crossAll(t, true) }

// crossAll crosses each operation with a kill at each point, alone or with what the host does in between.
func crossAll(t *testing.T, beside bool) {
	for _, op := range crossedOps() {
		for _, row := range op.rows() {
			if beside != (row.do != nil) {
				continue
			}
			for i, point := range strings.Fields(row.points) {
				name := op.name + "-" + point
				if beside {
					name += ", and the host " + row.what
				}
				if kit.Scale(t) < 1 && (beside && i > 0 || !beside && point == "done") {
					continue // a daemon for each takes long there
				}
				t.Run(name, func(t *testing.T) { cross(t, op, point, row) })
			}
		}
	}
}

// pause is how long the next worker waits before it goes on.
const pause = 700 * time.Millisecond

func cross(t *testing.T, op crossedOp, point string, row interference) {
	h := kit.OpenHost(t)
	x := &crossing{t: t, site: kit.NewSite(t, h, fmt.Sprintf("cross-%s-%s", op.name, point)), fd: -1, stored: "trusted.vcgroupfs.x." + crossedAttr}
	x.prepare(op)
	name := op.point
	if name == "" {
		name = op.name
	}
	env := []string{"VCGROUPFS_FAILPOINT=" + name + "-" + point + ":1", "VCGROUPFS_FAILPOINT_FILE=" + filepath.Join(t.TempDir(), "crossed")}
	if row.do != nil {
		env = append(env, fmt.Sprintf("VCGROUPFS_FAILPOINT_PAUSE=%d", pause.Milliseconds()))
	}
	x.d = kit.StartDaemonOf(t, kit.FailpointProgram(t), env...)
	x.site = x.d.Add(t, "crossed", x.site)
	x.openBefore(op)
	x.effects() // a new view has noted what the attributes of its cgroups take
	resend := x.d.Ready(t).Resend
	_, worker := x.d.Worker(t)
	defer unix.Close(worker)

	answer, tid := x.guest(op)
	if !kit.HasEnded(worker, kit.Patience) {
		t.Fatalf("the worker has not come to the point %s-%s and died; the guest's thread: %s", name, point, kit.TaskState(<-tid))
	}
	effects := x.effects()
	if row.do != nil {
		row.do(x)
		x.effects() // the host's own
	}
	var got string
	select {
	case got = <-answer:
	case <-time.After(kit.Patience):
		t.Fatalf("the operation has not ended; the guest's thread: %s", kit.TaskState(<-tid))
	}
	x.d.Ready(t)
	kit.Exists(x.seen("n")) // a request that the new worker has answered
	effects += x.effects()
	x.judge(op, row, got, effects, !resend && point != "replied")
}

// prepare makes, on the host, what the operation needs, and watches there for its effect.
func (x *crossing) prepare(op crossedOp) {
	x.must(x.site.Pids.Create(x.site.Path+"/w", 0o755))
	if op.v1 && x.site.Pids.Version != hierarchy.V1 {
		x.t.Skip("machine: pids is not on a v1 hierarchy, and v2 has no such operation")
	}
	if x.site.Pids.Version == hierarchy.V2 {
		x.must(x.site.Pids.Enable(x.site.Path+"/w/n", "pids"))
	}
	if op.prepare != nil {
		op.prepare(x)
	}
	var at string
	var err error
	x.mask, at, x.counted = op.effect()
	x.watch, err = unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	x.must(err)
	x.t.Cleanup(func() { unix.Close(x.watch) })
	if x.mask != 0 {
		_, err = unix.InotifyAddWatch(x.watch, x.real(at), x.mask)
		x.must(err)
	}
}

// openBefore opens, through the view, the file that the operation works with.
func (x *crossing) openBefore(op crossedOp) {
	if op.open != "" {
		var err error
		x.fd, err = unix.Open(x.seen(op.open), unix.O_WRONLY|unix.O_CLOEXEC, 0)
		x.must(err)
	}
	x.t.Cleanup(func() {
		if x.fd >= 0 {
			unix.Close(x.fd)
		}
	})
}

// guest does the operation on a thread of its own.
func (x *crossing) guest(op crossedOp) (answer chan string, tid chan int) {
	answer, tid = make(chan string, 1), make(chan int, 1)
	go func() {
		runtime.LockOSThread()
		tid <- unix.Gettid()
		answer <- op.do(x)
	}()
	return answer, tid
}

// effects counts what the host's watch has told since the last time. Two of the same that nobody has read in between are
// told as one, so it is asked before and after the restart.
func (x *crossing) effects() (n int) {
	for event := range strings.SplitSeq(kit.ReadInotify(x.watch), ",") {
		mask, name, _ := strings.Cut(event, " ")
		bits, err := strconv.ParseUint(mask, 16, 32) // not what an errno's name begins with
		if err == nil && uint32(bits)&x.mask != 0 && name == x.counted {
			n++
		}
	}
	return n
}

// judge looks at what came of it. Without a resend, what the dead worker had in its hands is told as aborted. A change
// that it had begun is done all the same, but for a move where the caller has ended, in whose numbers it is. An open is
// not.
func (x *crossing) judge(op crossedOp, row interference, got string, effects int, mayAbort bool) {
	x.t.Helper()
	aborted := mayAbort && got == "ECONNABORTED"
	if !aborted && !slices.Contains(row.answers, got) {
		x.t.Errorf("the guest got %s, want %q", got, row.answers)
	}
	undone := aborted && (op.name == "open" || op.name == "move" && effects == 0)
	if !undone && !slices.Contains(row.effects, effects) {
		x.t.Errorf("it was done %d times, want %d", effects, row.effects)
	}
	// A close that the dead worker had in its hands is aborted without anybody being told.
	lost := mayAbort && op.name == "release"
	if !undone && !lost { // the state of a lost close is waited for in vain
		if state := op.state(x); !slices.Contains(row.states, state) {
			x.t.Errorf("the host has %q, want %q", state, row.states)
		}
	}
	// A cgroup that is being made has no mode but this one (fs/mkdir.go).
	var st unix.Stat_t
	if unix.Stat(x.real("n"), &st) == nil && st.Mode&0o7777 == 0o1000 {
		x.t.Error("the host has a cgroup that is not finished")
	}
	if a, b := kit.CgroupsIn(x.real("")), kit.CgroupsIn(x.seen("")); !slices.Equal(a, b) {
		x.t.Errorf("the host has the cgroups %q, the view shows %q", a, b)
	}
	if x.d != nil {
		x.d.Stop(x.t)
	}
}

func (x *crossing) must(err error) {
	x.t.Helper()
	if err != nil {
		x.t.Fatal(err)
	}
}

func (x *crossing) attach(path string) { x.must(x.site.Pids.Attach(x.site.Path+path, x.pid)) }

func (x *crossing) setAttr(value string) {
	x.must(unix.Setxattr(x.real("n"), x.stored, []byte(value), 0))
}

func attrOf(path, name string) string {
	buf := make([]byte, 64)
	n, err := unix.Getxattr(path, name, buf)
	if err != nil {
		return kit.ErrnoName(err)
	}
	return string(buf[:n])
}

func inode(path string) uint64 {
	var st unix.Stat_t
	if unix.Lstat(path, &st) != nil {
		return 0
	}
	return st.Ino
}
