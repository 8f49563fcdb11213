package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/vcgroupfs/vcgroupfs/fs/conn"
	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// A trace is a list of steps that are done in a real cgroup, then in a view of another just like it. What each step answers
// must be the same, but for the declared differences.

// traceEnv is where a trace runs.
type traceEnv struct {
	t       *testing.T
	hier    *host.Hierarchy
	dir     string // the boundary, natively or as the view shows it
	w       string // a cgroup below it, for the trace to work in
	pid     int    // a process in the boundary
	outside int    // a process that is in the root of the hierarchy
	fds     map[string]int
}

func (x *traceEnv) at(path string) string { return filepath.Join(x.w, path) }

// step is one operation of a trace.
type step struct {
	name string
	do   func(x *traceEnv) string
}

// difference is a declared one: what the view answers where a native cgroup answers something else, and why.
type difference struct {
	step         func() *regexp.Regexp // compiled when a trace first asks: every role that a test starts would compile it
	native, view string                // "*" for anything
	why          string
}

func declare(step, native, view, why string) difference {
	return difference{sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile("^" + step + "$") }), native, view, why}
}

// differences is the whole list; docs/divergences.md explains each.
var differences = []difference{
	declare(`boundary: .*(open for writing|write|chmod|chown|utimes|setxattr).*`, "*", "EPERM", "what the host sets for the guest is the host's"),
	declare(`boundary: mode of .*`, "*", "*", "a file that nobody may write is shown so"),
	declare(`boundary: (release|notify) .*`, "*", "*", "kept by the view"),
	declare(`statfs: type`, "*", "65735546", "the kernel fills in FUSE's own type, where no BPF program may (TestType)"),
	declare(`mkdir of a name of \d+ bytes`, "ok", "ENAMETOOLONG", "no listing through FUSE could carry it, and statfs says 255"),
	declare(`mkdir of a control file's name .*`, "ok", "EINVAL", "it would keep the host from enabling the controller"),
	declare(`(open read-only files for writing|write to a read-only file).*`, "*", "EPERM", "settled at open"),
	declare(`xattr: security.*`, "*", "*", "a security module of the host would obey it"),
	declare(`handle: .*`, "*", "EOPNOTSUPP", "a guest gets no handles (FUSE_NO_EXPORT_SUPPORT, Linux 6.9)"),
	declare(`handle: .*`, "*", "81 12", "before Linux 6.9 it gets FUSE's, which lead nowhere but into its view"),
	declare(`file memory.reclaim: value .*`, "*", "(EINVAL|EAGAIN|EINTR) EINVAL", "what the kernel would wrap or take for 0 is refused, and an interruption is the caller's"),
	declare(`move: a kernel thread`, "EINVAL", "*", "it is outside the boundary"),
	declare(`move: pid 1`, "*", "*", "it is outside the boundary"),
	declare(`move: a process that is outside`, "ok", "*", "only tasks inside the boundary move"),
	declare(`file [a-z_.0-9A-Z]*: open for writing`, "*", "EPERM", "no policy lets a guest write this file"),
	declare(`file io.latency: stat`,
		"*", "*", "a file that nobody may write is shown so"),
	declare(`file cgroup.stat: keys`, "*", "*", "keys of hidden controllers are left out"),
	declare(`sendfile out`, "*", ".*EINVAL", "sendfile looks at the size and reads through the page cache, which has no part in this"),
	declare(`O_TRUNC changes the time of modification`, "true", "false", "the server would pay for what keeps it"),
	declare(`file size limit: cut off`, "ok/w ok /", "EFBIG/ ok /", "RLIMIT_FSIZE counts for FUSE: what is left of a command is not what was meant"),
	declare(`file size limit: reached`, "ok/w ok /", "signal: file size limit exceeded/ ok /", "the same"),
	declare(`mmap`, "ENODEV", "ok", "FUSE lets any file be mapped for reading; an access is SIGBUS"),
	declare(`move: a zombie`, "okENOENT", "ESRCHENOENT", "v1 does not tell where an exiting task is, and its parent is outside"),
}

// sized are the steps that see a file with a size, where files are passed through: those whose content the server makes.
var sized = regexp.MustCompile(`^file (cgroup.stat|memory.stat|cgroup.controllers|cgroup.subtree_control|notify_on_release): stat$`)

// inner says whether the tests run in a guest: in a view of a view nothing is passed through.
var inner = sync.OnceValue(func() bool {
	h, err := host.Open()
	if err != nil {
		return false
	}
	defer h.Close()
	return kit.InGuest(h)
})

func declared(name, native, view string) bool {
	if strings.ReplaceAll(view, " size 4096 blocks 8 ", " size 0 blocks 0 ") == native {
		return sized.MatchString(name) || conn.KernelAtLeast(6, 5) && !conn.KernelAtLeast(6, 9) || inner()
	}
	if inner() && strings.HasPrefix(name, "lseek ") && (view == "4096ok" || view == "0ok") {
		return true // the same
	}
	for _, d := range differences {
		if d.step().MatchString(name) && (d.native == "*" || d.native == native) && (d.view == "*" || regexp.MustCompile("^("+d.view+")$").MatchString(view)) {
			return true
		}
	}
	return false
}

// runTrace does the steps in a boundary that is shown at dir.
func runTrace(t *testing.T, hier *host.Hierarchy, dir, path string, steps []step) []string {
	x := &traceEnv{t: t, hier: hier, dir: dir, w: filepath.Join(dir, "w"), fds: map[string]int{}}
	x.pid, x.outside = kit.StartSleeper(t), kit.StartSleeper(t)
	if err := hier.Attach(path, x.pid); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(x.w, 0o755); err != nil {
		t.Fatal(err)
	}
	answers := make([]string, len(steps))
	for i, s := range steps {
		answers[i] = s.do(x)
	}
	for _, fd := range x.fds {
		closeFD(fd)
	}
	return answers
}

// compare runs a trace natively and on a view.
func compare(t *testing.T, hier *host.Hierarchy, controllers []string, steps []step) int {
	native := kit.NewBoundary(t, "native", hier)
	guest := kit.NewBoundary(t, "view", hier)
	v := kit.MountView(t, "--boundary", guest, "--controllers", strings.Join(controllers, ","), "--layout", kit.LayoutOf(hier))
	top := v.Dir
	if hier.Version == hierarchy.V1 {
		top = filepath.Join(v.Dir, hier.Dir)
	}
	want := runTrace(t, hier, kit.HostDir(hier, native), native, steps)
	got := runTrace(t, hier, top, guest, steps)
	for i, s := range steps {
		n, g := strings.ReplaceAll(want[i], native, "/B"), strings.ReplaceAll(got[i], guest, "/B")
		if n != g && !declared(s.name, n, g) {
			t.Errorf("%s: native %q, view %q", s.name, n, g)
		}
	}
	return len(steps)
}

// TestTrace: every hierarchy of this host, natively and through a view.
func TestTrace(t *testing.T) {
	h := kit.OpenHost(t)
	total := 0
	for _, hier := range h.Hierarchies() {
		names := kit.ShownControllers(hier)
		if len(names) == 0 {
			continue
		}
		t.Run(hier.String(), func(t *testing.T) {
			total += compare(t, hier, names, allSteps(t, hier))
		})
	}
	t.Logf("%d operations in %d hierarchies", total, len(h.Hierarchies()))
	if total < 200 {
		t.Errorf("only %d operations were compared", total)
	}
}

func allSteps(t *testing.T, hier *host.Hierarchy) []step {
	steps := append(vfsSteps(), memberSteps(hier)...)
	steps = append(steps, boundarySteps(hier)...)
	if hier.Version == hierarchy.V2 {
		steps = append(steps, unifiedSteps()...)
	}
	return append(steps, fileSteps(t, hier)...)
}

// boundarySteps are about the files of the boundary itself.
func boundarySteps(hier *host.Hierarchy) []step {
	var steps []step
	add := func(name string, do func(x *traceEnv) string) { steps = append(steps, step{"boundary: " + name, do}) }
	for _, row := range hierarchy.Table() {
		if row.Version != hier.Version || row.Boundary != hierarchy.ReadOnly || strings.Contains(row.Name, "*") ||
			row.Controller != "" && !hier.Holds(row.Controller) || row.Controller == "blkio" {
			continue
		}
		name := row.Name
		add("open for writing "+name, func(x *traceEnv) string {
			if !kit.Exists(filepath.Join(x.dir, name)) {
				return "EPERM" // not on this kernel, or not in this hierarchy
			}
			return kit.Word(kit.WithFile(filepath.Join(x.dir, name), os.O_WRONLY, func(int) error { return nil }))
		})
	}
	add("chmod", func(x *traceEnv) string { return kit.Word(os.Chmod(x.dir, 0o700)) })
	add("chown", func(x *traceEnv) string { return kit.Word(os.Chown(x.dir, 1000, 1000)) })
	steps = append(steps, step{"the boundary lists its child", func(x *traceEnv) string {
		return fmt.Sprint(kit.Exists(filepath.Join(x.dir, "w")))
	}})
	return steps
}
