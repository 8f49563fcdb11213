package self

import (
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/fs/conn"
)

// asked is a Dir without a connection, of which every touch comes to the same.
func asked(outcome Outcome, touches *int) *Dir {
	return &Dir{RawFileSystem: fuse.NewDefaultRawFileSystem(), told: map[int]time.Time{}, cfg: Config{
		Touched: func(int) Outcome { *touches++; return outcome }, Own: func(tid int) bool { return tid == 1 },
	}}
}

func (d *Dir) stat(tid uint32) fuse.Status {
	in := &fuse.GetAttrIn{InHeader: fuse.InHeader{Opcode: conn.OpGetattr, NodeId: rootNode, Caller: fuse.Caller{Pid: tid}}}
	return d.GetAttr(nil, in, &fuse.AttrOut{})
}

func TestTouch(t *testing.T) {
	const stale = fuse.Status(unix.ESTALE)
	for _, c := range []struct {
		outcome Outcome
		tid     uint32
		want    []fuse.Status // of touches right after each other
		asked   int
	}{
		{Empty, 7, []fuse.Status{fuse.OK, fuse.OK}, 2},
		{Covered, 7, []fuse.Status{stale, stale, stale}, 3},
		{Already, 7, []fuse.Status{stale, fuse.OK, stale, fuse.OK}, 4},
		{Covered, 1, []fuse.Status{fuse.OK}, 0}, // this process
		{Covered, 0, []fuse.Status{fuse.OK}, 0}, // of another pid namespace
	} {
		n := 0
		d := asked(c.outcome, &n)
		for i, want := range c.want {
			if got := d.stat(c.tid); got != want {
				t.Errorf("outcome %d, touch %d of thread %d: %v, want %v", c.outcome, i, c.tid, got, want)
			}
		}
		if n != c.asked {
			t.Errorf("outcome %d, thread %d: asked %d times, want %d", c.outcome, c.tid, n, c.asked)
		}
	}
}

// TestTold: who was told long ago is told again, and what is kept of threads is bounded.
func TestTold(t *testing.T) {
	d := asked(Already, new(int))
	now := time.Now()
	for _, c := range []struct {
		after   time.Duration
		outcome Outcome
		want    bool
	}{{0, Covered, true}, {toldFor / 2, Already, false}, {toldFor / 2, Already, true}, {2 * toldFor, Already, true}, {2 * toldFor, Empty, false}, {2 * toldFor, Already, true}} {
		if got := d.tell(7, c.outcome, now.Add(c.after)); got != c.want {
			t.Errorf("after %v, outcome %d: told %t, want %t", c.after, c.outcome, got, c.want)
		}
	}
	for tid := range 3 * maxTold {
		d.tell(tid, Already, now)
	}
	if len(d.told) > maxTold {
		t.Errorf("%d threads are kept", len(d.told))
	}
}

// TestEmpty: nothing is found, and a listing has not even the directory itself.
func TestEmpty(t *testing.T) {
	n := 0
	d := asked(Covered, &n)
	if st := d.Lookup(nil, &fuse.InHeader{NodeId: rootNode}, "pids.max", &fuse.EntryOut{}); st != fuse.ENOENT || n != 0 {
		t.Errorf("a name: %v, after asking %d times with the lock held", st, n)
	}
	if st := d.ReadDir(nil, &fuse.ReadIn{}, nil); st != fuse.OK || n != 0 {
		t.Errorf("a listing: %v", st)
	}
	out := fuse.AttrOut{}
	d = asked(Empty, &n)
	in := &fuse.GetAttrIn{InHeader: fuse.InHeader{Opcode: conn.OpGetattr, NodeId: rootNode, Caller: fuse.Caller{Pid: 7}}}
	if st := d.GetAttr(nil, in, &out); st != fuse.OK || out.Mode != unix.S_IFDIR|0o555 || out.Timeout() != 0 {
		t.Errorf("attributes: %v, %o, good for %v", st, out.Mode, out.Timeout())
	}
}
