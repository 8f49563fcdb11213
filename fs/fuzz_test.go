package fs

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/sirupsen/logrus"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/policy"
)

// fuzzed is a view that is mounted nowhere, on a real boundary with a sibling that nothing may touch.
type fuzzed struct {
	view    *View
	server  *fuse.ProtocolServer
	sibling string
	dir     uint64 // kernfs id of a cgroup of the guest
}

func newFuzzed(f *testing.F) *fuzzed {
	h, err := host.Open()
	if err != nil {
		f.Skip("machine: " + err.Error())
	}
	hier := h.Hierarchy(hierarchy.Unified)
	if hier == nil {
		hier = h.Hierarchy("pids")
	}
	top := fmt.Sprintf("/vcgroupfs-fuzz-%d", os.Getpid())
	f.Cleanup(func() {
		hier.Kill(top)
		if err := hier.RemoveAll(top); err != nil {
			f.Error(err)
		}
		h.Close()
	})
	for _, dir := range []string{"/guest/a", "/sibling"} {
		if err := hier.Create(top+dir, 0o755); err != nil {
			f.Skip("machine: " + err.Error())
		}
	}
	b, err := hier.Boundary(top + "/guest")
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(b.Close)
	p, err := policy.Default().WithControllers(append(hier.Controllers, hierarchy.Unified))
	if err != nil {
		f.Fatal(err)
	}
	log := logrus.New()
	log.SetLevel(logrus.PanicLevel)
	v, err := New(Config{Host: h, Boundaries: []*host.Boundary{b}, Policy: p, Log: logrus.NewEntry(log)})
	if err != nil {
		f.Skip("machine: " + err.Error())
	}
	f.Cleanup(func() { v.Close() })
	root, err := b.Root()
	if err != nil {
		f.Fatal(err)
	}
	defer root.Release()
	a, err := root.OpenDir("a")
	if err != nil {
		f.Fatal(err)
	}
	defer a.Release()
	x := &fuzzed{view: v, sibling: filepath.Join(hier.Mountpoint, top), dir: a.ID()}
	x.server = fuse.NewProtocolServer((*rawFS)(v), &fuse.MountOptions{})
	x.send(message(26, 1, 0, 7, 0, 40, 0, 0, 0, 0, 0)) // INIT 7.40
	return x
}

// message is a request: header (include/uapi/linux/fuse.h) and words.
func message(opcode uint32, node uint64, pid uint32, words ...uint32) []byte {
	b := make([]byte, 40, 40+4*len(words))
	binary.NativeEndian.PutUint32(b[4:], opcode)
	binary.NativeEndian.PutUint64(b[8:], 1)
	binary.NativeEndian.PutUint64(b[16:], node)
	binary.NativeEndian.PutUint32(b[32:], pid)
	for _, w := range words {
		b = binary.NativeEndian.AppendUint32(b, w)
	}
	return b
}

// send gives a request to the server. Its length is put right, as the kernel's always is.
func (x *fuzzed) send(in []byte) {
	if len(in) < 40 {
		return
	}
	in = append([]byte(nil), in...)
	binary.NativeEndian.PutUint32(in, uint32(len(in)))
	x.server.HandleRequest([][]byte{in}, [][]byte{make([]byte, 128<<10)})
}

// state is what no request may change: what lies beside the boundary.
func (x *fuzzed) state(t *testing.T) string {
	entries, err := os.ReadDir(x.sibling)
	if err != nil {
		t.Fatal(err)
	}
	s := ""
	for _, dir := range []string{"", "sibling"} {
		for _, file := range []string{"cgroup.procs", "cgroup.freeze", "cgroup.max.depth", "pids.max", "cgroup.subtree_control", "notify_on_release"} {
			raw, _ := os.ReadFile(filepath.Join(x.sibling, dir, file))
			s += string(raw) + ";"
		}
	}
	for _, e := range entries {
		if e.IsDir() {
			s += e.Name() + ","
		}
	}
	return s
}

// FuzzRequests: no message makes the server panic, or changes anything outside the boundary.
func FuzzRequests(f *testing.F) {
	x := newFuzzed(f)
	pid := uint32(os.Getpid())
	name := func(op uint32, node uint64, n string) []byte {
		return append(message(op, node, pid), append([]byte(n), 0)...)
	}
	file := x.view.fileNode(x.view.hierarchies[0], x.dir, "cgroup.procs", 0)
	for _, seed := range [][]byte{
		name(1, 1, "a"), name(1, 1, ".."), name(1, 1, "../sibling"), name(1, 1, "cgroup.procs"), name(10, 1, "a"), name(10, 1, "../sibling"), name(11, 1, "../sibling"),
		append(message(9, 1, pid, 0o755, 0), "b\x00"...), append(message(9, 1, pid, 0o755, 0), "../evil\x00"...), append(message(9, 1, pid, 0o755, 0), ".\x00"...),
		append(message(12, 1, pid, 1, 0), "a\x00../sibling/x\x00"...), message(14, file, pid, 2, 0), message(14, file, pid, 0, 0), message(27, 1, pid, 0, 0),
		message(15, file, pid, 1, 0, 0, 0, 4096, 0, 0, 0, 0, 0), append(message(16, file, pid, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0), '0'),
		message(28, 1, pid, 1, 0, 0, 0, 4096, 0, 0, 0, 0, 0), message(3, 1, pid, 0, 0, 0, 0), message(4, 1, pid, 1, 0, 0, 0, 0, 0), message(17, 1, pid),
		append(message(21, file, pid, 1, 0), "user.x\x00v"...), append(message(22, file, pid, 100, 0), "trusted.vcgroupfs.owner\x00"...), message(23, file, pid, 100, 0),
		message(3, ^uint64(0), pid, 0, 0, 0, 0), message(3, 63<<58|5, pid, 0, 0, 0, 0), message(3, 1<<58|1, pid, 0, 0, 0, 0), message(14, 1<<58|1023<<48|x.dir, pid, 0, 0),
		message(18, file, pid, 1, 0, 0, 0, 0, 0), message(46, file, pid, 1, 0, 0, 0, 0, 0, 0, 0), message(45, 1, pid, 1, 0, 0, 0), message(39, file, pid, 1, 0, 0, 0, 0, 0, 0, 0),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		before := x.state(t)
		x.send(in)
		if after := x.state(t); after != before {
			t.Fatalf("%x changed what is outside: %s became %s", in, before, after)
		}
	})
}
