package kit

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// The main thread belongs to the main goroutine, so no test runs there. A test's goroutine that changes its thread, and
// leaves it locked so that it ends, would leave the main thread changed: it never ends before the process does, and
// /proc/self shows its state.
func init() { runtime.LockOSThread() }

// Main runs the tests, or plays the role of a helper process, from one of the tables or sharedRoles. It fails the run
// when anything is left after it: a cgroup, a mount, a descriptor, a file of a guest.
func Main(m *testing.M, tables ...map[string]Role) {
	if helperRole != "" {
		if !Exists(os.TempDir()) { // in a root file system of its own
			os.Unsetenv("TMPDIR")
		}
		play(helperRole, append(tables, sharedRoles)...)
		return
	}
	if err := ownTemp(); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	restore, err := switchTransport()
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	before, views := CountFDs(), viewMounts()
	others := leftovers(before, views) // another run uses it, or one that was killed has left it
	code := m.Run()
	os.RemoveAll(tempOf(strconv.Itoa(os.Getpid())))
	restore()
	if left := stays(before, views, others); len(left) > 0 && code == 0 {
		fmt.Println("left after the tests:\n" + strings.Join(left, "\n"))
		code = 1
	}
	os.Exit(code)
}

// ownTemp has this run and what it starts use a directory of their own, by which their mounts are told from those of
// another run beside it.
func ownTemp() error {
	dir := tempOf(strconv.Itoa(os.Getpid()))
	if err := os.Mkdir(dir, 0o777); err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o1777); err != nil { // umask
		return err
	}
	return os.Setenv("TMPDIR", dir)
}

// CountFDs counts the descriptors of this process.
func CountFDs() int {
	entries, _ := os.ReadDir("/proc/self/fd")
	return len(entries)
}

// othersPatience is how long something must stay before it is what these tests have left, not what another run of them
// beside this one uses.
const othersPatience = 2 * time.Minute

// stays lists what the tests should have taken away and nobody else takes away either.
func stays(fdsBefore int, viewsBefore, others []string) (left []string) {
	left = leftovers(fdsBefore, viewsBefore)
	left = slices.DeleteFunc(left, func(one string) bool { return slices.Contains(others, one) })
	for until := time.Now().Add(othersPatience); len(left) > 0 && time.Now().Before(until); time.Sleep(time.Second) {
		now := leftovers(fdsBefore, viewsBefore)
		left = slices.DeleteFunc(left, func(one string) bool { return !slices.Contains(now, one) })
	}
	return left
}

// leftovers lists what is there of these tests, or of others like them.
func leftovers(fdsBefore int, viewsBefore []string) (left []string) {
	runtime.GC() // descriptors that only an os.File held
	time.Sleep(50 * time.Millisecond)
	if n := CountFDs(); n > fdsBefore+4 { // Go's own poller and its kin
		left = append(left, fmt.Sprintf("%d descriptors, %d at the beginning", n, fdsBefore))
	}
	for _, view := range viewMounts() {
		if !slices.Contains(viewsBefore, view) { // the one of a guest in which the tests run
			left = append(left, "mount: "+view)
		}
	}
	raw, _ := os.ReadFile("/proc/self/mountinfo")
	mounts, err := hierarchy.ParseMounts(raw)
	if err != nil {
		left = append(left, err.Error())
	}
	for _, mount := range mounts {
		for _, pattern := range []string{Prefix + "*", "vcgroupfs/*"} {
			found, _ := filepath.Glob(filepath.Join(mount.Point, pattern))
			for _, dir := range found {
				if st, err := os.Stat(dir); err == nil && st.IsDir() {
					left = append(left, "cgroup: "+dir)
				}
			}
		}
	}
	guests, _ := filepath.Glob("/run/vcgroupfs/guests/*")
	for _, f := range guests {
		left = append(left, "guest: "+f)
	}
	ranges, _ := filepath.Glob(filepath.Join(idsDir, "*"))
	for _, f := range ranges {
		if root, err := strconv.Atoi(filepath.Base(f)); err == nil && IsHeld(root) {
			left = append(left, "ids: "+f)
		}
	}
	return left
}

// viewMounts are the lines of the mount table of views.
func viewMounts() (views []string) {
	for line := range strings.Lines(MountTable()) {
		if strings.Contains(line, " - fuse.cgroup") {
			views = append(views, line)
		}
	}
	return views
}

const idsDir = "/run/vcgroupfs/ids"

// IsHeld reports whether ids from a number on are a running guest's.
func IsHeld(root int) bool {
	f, err := os.Open(filepath.Join(idsDir, strconv.Itoa(root)))
	if err != nil {
		return false
	}
	defer f.Close()
	return unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB) != nil
}
