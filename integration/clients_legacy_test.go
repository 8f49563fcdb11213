package integration

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// Programs that look for cgroup v1, in a guest that "run --layout v1" shows v1 on a host with v2 alone.

// legacySuite is the tree that has them.
const legacySuite = "bullseye"

// legacyGuest is a shell in a guest with limits, which carries out lines. Their $place is a directory with the tree as
// "root".
type legacyGuest struct {
	*kit.Helper
	h    *host.Host
	name string
}

// legacyRoot binds $tree to $place/root, with what the guest has of the kernel's and no cgroups. It can write to /tmp
// and /run.
const legacyRoot = `
set -e
mount -t tmpfs tmpfs "$place"
mkdir "$place/root"
mount --rbind "$tree" "$place/root"
cd "$place/root"
mount --rbind /proc proc
for dir in tmp run; do mount -t tmpfs -o mode=755 tmpfs $dir; done
`

// legacyShell carries out lines.
const legacyShell = legacyRoot + `
for dir in sys dev; do mount --rbind /$dir $dir; done
for root in opt/*; do
	[ -d $root/proc ] || continue
	for dir in proc sys dev; do mount --rbind /$dir $root/$dir; done
done
cp "$test_program" tmp/program
[ ! -e "$rust_program" ] || cp "$rust_program" tmp/parallelism
mkdir -p tmp/inner/rootfs
cp tmp/program tmp/inner/rootfs
echo "$inner_config" >tmp/inner/config.json
cd /
echo ready
while read -r line; do
	sh -c "$line" </dev/null >"$place/said" 2>&1 && status=0 || status=$?
	cat "$place/said"
	echo "=== $status"
done`

// in is a line that becomes a command with a root below $place.
func (g *legacyGuest) in(root, command string) string {
	return fmt.Sprintf(`exec chroot "$place/%s" %s`, root, command)
}

func startLegacyGuest(t *testing.T, h *host.Host, controllers string, args ...string) *legacyGuest {
	t.Helper()
	g := &legacyGuest{h: h, name: "legacy-" + strconv.Itoa(os.Getpid())}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	rust, err := filepath.Abs(rustProgram())
	if err != nil {
		t.Fatal(err)
	}
	args = append([]string{"run", "--name", g.name, "--privileged", "--layout", "v1", "--controllers", controllers}, args...)
	cmd := exec.Command(kit.Program(t), append(args, "--", "sh", "-c", legacyShell)...)
	cmd.Env = append(os.Environ(), "tree="+needTree(t, legacySuite), "place="+kit.PublicDir(t), "test_program="+self, "rust_program="+rust,
		"inner_config="+legacyInner)
	cmd.Stderr = os.Stderr
	g.Helper = kit.StartProcess(t, cmd)
	if got := g.Line(t); got != "ready" {
		t.Fatalf("the guest says %q", got)
	}
	return g
}

// do carries out a line of the shell, and answers with what it said.
func (g *legacyGuest) do(t *testing.T, line string) (said string, err error) {
	t.Helper()
	fmt.Fprintln(g.In, line)
	var all strings.Builder
	for {
		got, err := g.Out.ReadString('\n')
		if err != nil {
			t.Fatalf("%v: %s", err, all.String())
		}
		before, status, ended := strings.Cut(got, "=== ")
		all.WriteString(before)
		if !ended {
			continue
		}
		if status = strings.TrimSpace(status); status != "0" {
			err = fmt.Errorf("status %s", status)
		}
		return all.String(), err
	}
}

func (g *legacyGuest) stop(t *testing.T) {
	t.Helper()
	g.End(t)
	kit.WantGone(t, g.h, g.name)
}

// legacyClient is a program of the tree that is asked for the limit of memory or of processors.
type legacyClient struct {
	name    string
	root    string // below $place
	command string
	sees    string // what its output matches when it has found the limit
	view    string // what it makes of the view alone: "yes", "ignores", "no"
	proc    string // and with --proc, or with v1 on the host
	refuses string // what its output matches when it fails for what it finds
}

// runcInTree is the tree's runc.
const runcInTree = "/usr/sbin/runc --root /tmp/runc "

var legacyClients = []legacyClient{
	{name: "Node.js 18", root: "root/opt/node18", view: "yes", proc: "yes",
		command: "/usr/bin/node -p 'process.version + \" \" + process.constrainedMemory()'", sees: fmt.Sprintf(`(?m)^v18\.\S+ %d$`, clientMemory)},
	{name: "telegraf", root: "root", command: "/usr/bin/env " + kit.RoleVariable + "=client /tmp/program telegraf", view: "yes", proc: "yes",
		sees: fmt.Sprintf("(?s)memory=%d\n.*pids=%d\n", clientMemory, clientPids)},
	{name: "Rust", root: "root", command: "/tmp/parallelism", view: "ignores", proc: "yes", sees: "^1\n"},
	{name: "JDK 8", root: "root/opt/jdk8", view: "ignores", proc: "yes",
		sees:    fmt.Sprintf("(?s)active_processor_count: 1\n.*Memory Limit is: %d\n", clientMemory),
		command: "/usr/lib/jvm/java-8-openjdk-amd64/bin/java -XX:+UseSerialGC -XX:+UnlockDiagnosticVMOptions -XX:+PrintContainerInfo -version"},
	{name: "libcgroup", root: "root", command: "/usr/bin/cgget -n -v -r memory.limit_in_bytes /", view: "no", proc: "yes",
		sees: fmt.Sprintf("^%d\n", clientMemory), refuses: "Cgroup is not mounted"},
	// With the devices controller it is another test's.
	{name: "runc without devices", root: "root", command: runcInTree + "run --bundle /tmp/inner inner", view: "no", proc: "no", sees: "^$",
		refuses: "mountpoint for devices not found"},
}

// there says whether the guest has the program.
func (c legacyClient) there(t *testing.T, g *legacyGuest) bool {
	t.Helper()
	words := strings.Fields(c.command)
	_, err := g.do(t, fmt.Sprintf(`test -e "$place/%s%s"`, c.root, words[0]))
	return err == nil
}

func (c legacyClient) ask(t *testing.T, g *legacyGuest) (verdict, said string) {
	t.Helper()
	said, err := g.do(t, g.in(c.root, c.command))
	return client{sees: c.sees, refuses: c.refuses}.verdict(t, []byte(said), err), said
}

// TestUnmodifiedLegacy: programs that know v1 find the limits of a guest on a host with v2 alone: those that read by path
// with the view alone, the others with --proc. With v1 on the host they do without.
func TestUnmodifiedLegacy(t *testing.T) {
	h := kit.OpenHost(t)
	v1 := kit.OnV1(h, "memory")
	for _, proc := range []bool{false, true} {
		t.Run(map[bool]string{false: "view", true: "proc"}[proc], func(t *testing.T) {
			limits := []string{"--limit", "pids.max=500", "--limit", "memory.max=200M", "--limit", "cpu.max=100000 100000"}
			if v1 {
				limits = []string{"--limit", "pids.max=500", "--limit", "memory.limit_in_bytes=200M", "--limit", "cpu.cfs_quota_us=100000"}
			}
			if proc {
				needUnified(t, h)
				limits = append(limits, "--proc")
			}
			g := startLegacyGuest(t, h, legacyControllers, limits...)
			for _, c := range legacyClients {
				t.Run(regexp.MustCompile(`\W+`).ReplaceAllString(c.name, "-"), func(t *testing.T) {
					if !c.there(t, g) {
						t.Skipf("machine: there is no %s in the tree of %s", c.name, legacySuite)
					}
					want := c.view
					if proc || v1 {
						want = c.proc
					}
					verdict, said := c.ask(t, g)
					if verdict != want {
						t.Errorf("%s, want %s; it printed:\n%.2000s", verdict, want, said)
					} else {
						t.Logf("%s: %.300s", verdict, cmp.Or(regexp.MustCompile(c.sees).FindString(said), said))
					}
				})
			}
			g.stop(t)
		})
	}
}

// legacyInner is the configuration of a container that a runtime starts in the guest, with limits.
const legacyInner = `{
	"ociVersion": "1.0.2", "root": {"path": "rootfs"}, "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
	"process": {"user": {"uid": 0, "gid": 0}, "args": ["/program"], "env": ["` + kit.RoleVariable + `=pause"], "cwd": "/"},
	"linux": {
		"cgroupsPath": "/inner", "namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "mount"}, {"type": "cgroup"}],
		"resources": {"memory": {"limit": 67108864}, "cpu": {"shares": 512, "quota": 20000, "period": 100000}, "pids": {"limit": 20}}
	}
}`

// mountLegacy mounts a hierarchy of v1, that of the kernel's own controller, on a host with v2.
func mountLegacy(t *testing.T, controller string) {
	t.Helper()
	dir := kit.PublicDir(t)
	if err := unix.Mount("cgroup", dir, "cgroup", 0, controller); err != nil {
		t.Skipf("machine: the kernel's %s controller cannot be mounted: %v", controller, err)
	}
	t.Cleanup(func() { unix.Unmount(dir, 0) })
}

// TestUnmodifiedLegacyRuntime: runc finds v1 in such a guest, and the limits of its container are the host's of v2. It
// wants the devices controller, which v2 does not have: that is the kernel's own, beside v2.
func TestUnmodifiedLegacyRuntime(t *testing.T) {
	hier := needUnified(t, kit.OpenHost(t))
	needTree(t, legacySuite)
	mountLegacy(t, "devices")
	h := kit.OpenHost(t)
	g := startLegacyGuest(t, h, legacyControllers+",devices", "--userns", "--proc")
	if said, err := g.do(t, g.in("root", runcInTree+"run --detach --bundle /tmp/inner inner")); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	dir := kit.HostDir(hier, "/vcgroupfs/"+g.name+"/inner")
	for file, want := range map[string]string{"memory.max": "67108864", "cpu.weight": "59", "cpu.max": "20000 100000", "pids.max": "20"} {
		if got := strings.TrimSpace(kit.ReadFile(filepath.Join(dir, file))); got != want {
			t.Errorf("%s on the host: %s, want %s", file, got, want)
		} else {
			t.Logf("%s on the host: %s", file, got)
		}
	}
	if got := strings.Fields(kit.ReadFile(filepath.Join(dir, kit.Procs))); len(got) != 1 {
		t.Errorf("the host finds the processes %q in the container's cgroup", got)
	}
	if said, err := g.do(t, g.in("root", runcInTree+"delete --force inner")); err != nil || kit.Exists(dir) {
		t.Errorf("%v: %s; its cgroup is there: %v", err, said, kit.Exists(dir))
	}
	g.stop(t)
}
