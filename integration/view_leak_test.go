package integration

import (
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/fs"
	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/integration/kit"
	"github.com/vcgroupfs/vcgroupfs/policy"
)

// TestLeaks: views that are made, used and closed leave neither descriptors nor goroutines.
func TestLeaks(t *testing.T) {
	h := kit.OpenHost(t)
	hier := kit.NeedHierarchy(t, h, "pids")
	path := kit.NewBoundary(t, "leaks", hier)
	dir := kit.PublicDir(t)
	use := func() {
		b, err := hier.Boundary(path)
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		useView(t, h, b, dir)
	}
	use() // what the first use makes for good
	goroutines, fds := runtime.NumGoroutine(), kit.CountFDs()
	for range 5 {
		use()
	}
	kit.Eventually(t, "the goroutines to end", func() bool { return runtime.NumGoroutine() <= goroutines })
	if n := kit.CountFDs(); n > fds {
		t.Errorf("%d descriptors, %d before", n, fds)
	}
}

// UseView does a little of everything on a view in this process.
func useView(t *testing.T, h *host.Host, b *host.Boundary, dir string) {
	t.Helper()
	p, err := policy.Default().WithControllers(kit.ShownControllers(b.Hierarchy()))
	if err != nil {
		t.Fatal(err)
	}
	log := logrus.New()
	log.SetLevel(logrus.WarnLevel)
	v, err := fs.New(fs.Config{Host: h, Boundaries: []*host.Boundary{b}, Policy: p, Log: logrus.NewEntry(log)})
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	if err := v.Conn().Mount(dir, nil); err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	v.Start(func(err error) { served <- err })
	top := dir
	if b.Hierarchy().Version == hierarchy.V1 {
		top = filepath.Join(dir, b.Hierarchy().Dir)
	}
	for i := range 20 {
		d := filepath.Join(top, "d"+strconv.Itoa(i))
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
		kit.WriteFile(filepath.Join(d, kit.Procs), "x")
		readRaw(filepath.Join(d, kit.Procs))
		kit.Listing(d)
	}
	names, _ := filepath.Glob(top + "/*")
	for _, name := range names {
		readRaw(name)
	}
	for i := range 20 {
		os.Remove(filepath.Join(top, "d"+strconv.Itoa(i)))
	}
	kept, err := unix.Open(filepath.Join(top, kit.Procs), unix.O_RDONLY|unix.O_CLOEXEC, 0) // open when the server ends
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(kept)
	if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	v.Close()
	if err := <-served; err != nil {
		t.Errorf("Serve: %v", err)
	}
}

// readRaw reads without package os, which would have Go's poller poll the file: in the process that is to answer.
func readRaw(path string) string {
	return kit.TryFile(path, unix.O_RDONLY, func(fd int) string { return kit.ReadPieces(fd, 4096) })
}

// TestFlat: where a policy shows v1 blkio, nothing can be made below the boundary.
func TestFlat(t *testing.T) {
	h := kit.OpenHost(t)
	if !kit.OnV1(h, "blkio") {
		t.Skip("machine: blkio is not on a v1 hierarchy")
	}
	got := kit.RunGuest(t, []string{"--controllers", "blkio"}, `cd /sys/fs/cgroup/blkio && mkdir a 2>&1; cat blkio.throttle.read_bps_device; echo "8:0 1" >blkio.throttle.read_bps_device`)
	if !strings.Contains(got.Stdout, "not permitted") || !strings.Contains(got.Stderr, "not permitted") {
		t.Errorf("%+v", got)
	}
}

// TestReleaseAgent: what a guest says of notify_on_release stays in its view, also for the cgroups that it makes below; the
// host's own file says 0, whatever the boundary's does.
func TestReleaseAgent(t *testing.T) {
	h := kit.OpenHost(t)
	hier := kit.NeedHierarchy(t, h, "pids")
	if hier.Version != hierarchy.V1 {
		t.Skip("machine: pids is not on a v1 hierarchy")
	}
	path := kit.NewBoundary(t, "release", hier)
	if err := hier.WriteFile(path, "notify_on_release", "1"); err != nil {
		t.Fatal(err)
	}
	v := kit.MountView(t, "--boundary", path, "--controllers", "pids")
	at := func(file string) string { return filepath.Join(v.Top(hier), file) }
	got := kit.ReadFile(at("notify_on_release")) + kit.Mkdir(at("a"), 0o755)[:4] + " " + kit.WriteFile(at("a/notify_on_release"), "1") + " " +
		kit.ReadFile(at("a/notify_on_release")) + kit.Mkdir(at("a/b"), 0o755)[:4] + " " + kit.ReadFile(at("a/b/notify_on_release"))
	if want := "0\nmode ok 1\nmode 1\n"; got != want {
		t.Errorf("the guest: %q, want %q", got, want)
	}
	for _, dir := range []string{"/a", "/a/b"} {
		if got, err := hier.ReadFile(path+dir, "notify_on_release"); got != "0\n" || err != nil {
			t.Errorf("the host's file of %s: %q, %v", dir, got, err)
		}
	}
}
