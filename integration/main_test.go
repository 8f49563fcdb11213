package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// testPrefix begins the name of every cgroup that a test makes.
var testPrefix = fmt.Sprintf("vcgroupfs-test-%d-", os.Getpid())

// roles are what the test binary does beside sharedRoles and notifyRoles when a test starts it as a helper process.
var roles = map[string]role{
	"ask":       playAsk,
	"client":    playClient,
	"filtered":  playFiltered,
	"forge":     playForge,
	"guards":    playGuards,
	"hostile":   playHostile,
	"huge":      playHuge,
	"into":      playInto,
	"many":      playMany,
	"other-ids": playOtherIDs,
	"pipes":     playPipes,
	"scrape":    playScrape,
	"streams":   playStreams,
	"userns":    playUserns,
}

func TestMain(m *testing.M) { runTests(m, roles, notifyRoles) }

// runTests runs the tests, or plays the role of a helper process, from one of the tables or sharedRoles. It fails the run
// when anything is left after it: a cgroup, a mount, a descriptor, a file of a guest.
func runTests(m *testing.M, tables ...map[string]role) {
	if helperRole != "" {
		if !exists(os.TempDir()) { // in a root file system of its own
			os.Unsetenv("TMPDIR")
		}
		play(helperRole, append(tables, sharedRoles)...)
		return
	}
	if err := ownTemp(); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	before, views := countFDs(), viewMounts()
	others := leftovers(before, views) // another run uses it, or one that was killed has left it
	code := m.Run()
	os.RemoveAll(tempOf(strconv.Itoa(os.Getpid())))
	if left := stays(before, views, others); len(left) > 0 && code == 0 {
		fmt.Println("left after the tests:\n" + strings.Join(left, "\n"))
		code = 1
	}
	os.Exit(code)
}

// tempOf is the directory for temporary files of a run, whose paths may be those of sockets, and so are short.
func tempOf(pid string) string { return filepath.Join("/tmp", "vt-"+pid) }

// ownTemp has this run and what it starts use a directory of their own, by which their mounts are told from those of another run beside it.
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

// ofAnother matches the mounts of other runs, in their directories for temporary files.
var ofAnother = regexp.MustCompile(` ` + tempOf("([0-9]+)") + `/`)

// mountTable is the mount table of this process, as mountinfo has it, without the mounts of other runs.
func mountTable() string {
	var table strings.Builder
	for line := range strings.Lines(readFile("/proc/self/mountinfo")) {
		if m := ofAnother.FindStringSubmatch(line); m == nil || m[1] == strconv.Itoa(os.Getpid()) {
			table.WriteString(line)
		}
	}
	return table.String()
}

func countFDs() int {
	entries, _ := os.ReadDir("/proc/self/fd")
	return len(entries)
}

// othersPatience is how long something must stay before it is what these tests have left, not what another run of them beside this one uses.
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
	if n := countFDs(); n > fdsBefore+4 { // Go's own poller and its kin
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
		for _, pattern := range []string{testPrefix + "*", "vcgroupfs/*"} {
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
		if root, err := strconv.Atoi(filepath.Base(f)); err == nil && isHeld(root) {
			left = append(left, "ids: "+f)
		}
	}
	return left
}

// viewMounts are the lines of the mount table of views.
func viewMounts() (views []string) {
	for line := range strings.Lines(mountTable()) {
		if strings.Contains(line, " - fuse.cgroup") {
			views = append(views, line)
		}
	}
	return views
}

// program is the program under test.
func program(t testing.TB) string {
	t.Helper()
	path := os.Getenv("VCGROUPFS")
	if path == "" {
		t.Fatal("VCGROUPFS must name the program under test (make integration sets it)")
	}
	return path
}

// openHost opens the host for as long as the test runs.
func openHost(t testing.TB) *host.Host {
	t.Helper()
	h, err := host.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

// need skips a test on a machine that has no such hierarchy.
func need(t testing.TB, h *host.Host, name string) *host.Hierarchy {
	t.Helper()
	tree := h.Hierarchy(name)
	if tree == nil {
		t.Skipf("machine: no hierarchy has %s", name)
	}
	return tree
}

// hasV1 says whether a controller is on a v1 hierarchy of its own.
func onV1(h *host.Host, controller string) bool {
	t := h.Hierarchy(controller)
	return t != nil && t.Version == hierarchy.V1
}

// boundary makes a cgroup in hierarchies, for one test, and answers with its path from their roots.
func boundary(t testing.TB, name string, trees ...*host.Hierarchy) string {
	t.Helper()
	path := "/" + testPrefix + strings.NewReplacer("/", "-", "=", "-", " ", "-").Replace(name)
	for _, tree := range trees {
		t.Cleanup(func() {
			if err := tree.Kill(path); err != nil {
				t.Error(err)
			}
			if err := tree.RemoveAll(path); err != nil {
				t.Error(err)
			}
		})
		if err := tree.Create(path, 0o755); err != nil {
			t.Fatal(err)
		}
		if tree.Version == hierarchy.V2 {
			if err := tree.Enable(path, tree.Controllers...); err != nil {
				t.Fatal(err)
			}
		}
	}
	return path
}

// view is a view that the program serves.
type view struct {
	dir string
	cmd *exec.Cmd
	err *strings.Builder
}

// mountView starts "mount" and waits until it is there. It ends with the test, and must then have ended with status 0.
func mountView(t testing.TB, args ...string) *view {
	t.Helper()
	dir := publicDir(t)
	return mountAt(t, dir, append(args, dir)...)
}

// mountAt does so with all arguments as they are; they say to mount at a directory.
func mountAt(t testing.TB, dir string, args ...string) *view {
	t.Helper()
	v := &view{dir: dir, err: &strings.Builder{}}
	v.cmd = exec.Command(program(t), append([]string{"mount"}, args...)...)
	v.cmd.Stderr = v.err
	if err := v.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- v.cmd.Wait() }()
	t.Cleanup(func() {
		v.cmd.Process.Signal(unix.SIGTERM)
		select {
		case err := <-ended:
			if err != nil || v.err.Len() > 0 {
				t.Errorf("the server ended with %v and said %q", err, v.err)
			}
		case <-time.After(20 * time.Second):
			v.cmd.Process.Signal(unix.SIGQUIT)
			<-ended
			t.Errorf("the server did not end: %s", v.err)
		}
		unix.Unmount(v.dir, unix.MNT_DETACH)
	})
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if isFUSE(v.dir) {
			return v
		}
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("the server ended before it was mounted: %v: %s", err, v.err)
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("not mounted after 20 s: %s", v.err)
		}
	}
}

// isFUSE says whether a FUSE file system is at a path, whatever type statfs gives it.
func isFUSE(path string) bool {
	var st unix.Statx_t
	if unix.Statx(unix.AT_FDCWD, path, 0, 0, &st) != nil {
		return false
	}
	device := fmt.Sprintf("%d:%d", st.Dev_major, st.Dev_minor)
	for line := range strings.Lines(readFile("/proc/self/mountinfo")) {
		if f := strings.Fields(line); f[2] == device {
			return strings.Contains(line, " - fuse")
		}
	}
	return false
}

// publicDir is a temporary directory that every user can reach; those of testing are root's alone.
func publicDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "vcgroupfs-test-")
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// top is the directory of a hierarchy in a view that shows no other.
func (v *view) top(tree *host.Hierarchy) string { return topOf(v.dir, tree) }

// topOf is where a hierarchy is in the view at a directory.
func topOf(view string, tree *host.Hierarchy) string {
	if tree.Version == hierarchy.V2 {
		return view
	}
	return filepath.Join(view, tree.Dir)
}

// sleeper starts a process that does nothing, in no particular cgroup.
func sleeper(t testing.TB) int {
	t.Helper()
	cmd := exec.Command("sleep", "3600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return cmd.Process.Pid
}

// asUser runs f on a thread with another effective user id, and so without capabilities.
func asUser(uid int, f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		const same = ^uintptr(0)
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, same, uintptr(uid), same); errno != 0 {
			panic(errno)
		}
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, same, uintptr(uid), same); errno != 0 {
			panic(errno)
		}
		f()
	}()
	<-done
}

// eventually waits for something that takes its own time, and looks ever more seldom: in an emulated machine looking is all the work.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	pause := 2 * time.Millisecond
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(pause) {
		if time.Now().After(deadline) {
			t.Fatalf("waited too long for %s", what)
		}
		pause = min(pause*5/4, 50*time.Millisecond)
	}
}

// again does something time and again beside the test, until it says that it is enough or end is called.
func again(do func() bool) (end func()) {
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for do() {
			select {
			case <-stop:
				return
			default:
			}
		}
	}()
	return sync.OnceFunc(func() { close(stop); <-stopped })
}

// hostDir is the real directory of a path in a hierarchy.
func hostDir(tree *host.Hierarchy, path string) string { return filepath.Join(tree.Mountpoint, path) }
