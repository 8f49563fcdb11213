package integration

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// The limits of a container in which programs are asked what they find, beside a quota of one processor.
const (
	clientMemory = 200 << 20
	clientPids   = 500
)

// client is a program, and what it says when it has found the limits.
type client struct {
	row     string // the beginning of its row in doctor's table
	needs   string // a program of the host; "" for one that the tests bring along
	command []string
	sees    string // what then matches its output, as a regular expression
	refuses string // what does when it fails for what it finds: no other failure is a refusal; "" for one that never fails
}

// clients are the programs that are asked, in a view of a version. What a row says of others than those is read in their sources.
func clients(version hierarchy.Version) []client {
	maxprocs := "^1 " // automaxprocs rounds down; GOMAXPROCS is never below 2 for a quota
	if runtime.NumCPU() > 2 {
		maxprocs = "^1 2 "
	}
	memoryLimit := "memory.max"
	if version == hierarchy.V1 {
		memoryLimit = "memory.limit_in_bytes"
	}
	return []client{
		{row: "Go 1.25", command: []string{"/program", "maxprocs"}, sees: maxprocs},
		{row: "telegraf", command: []string{"/program", "telegraf"}, sees: fmt.Sprintf("(?s)memory=%d\n.*pids=%d\n", clientMemory, clientPids)},
		{row: "Rust", needs: "rustc", command: []string{"/parallelism"}, sees: "^1\n"},
		{row: "Node.js", needs: "node", command: []string{"node", "-p", "process.constrainedMemory()"}, sees: fmt.Sprintf("^%d\n", clientMemory)},
		{row: jdkRow(), needs: "java", command: append([]string{"java"}, javaArgs...), sees: javaSees},
		{row: "JDK 25 ", needs: newJDK, command: append(newJava(), javaArgs...), sees: javaSees},
		{row: "runc in", needs: "runc", command: []string{"sh", "-c", nested("runc")}, sees: "^inner\n",
			refuses: "runc run failed: no cgroup mount found in mountinfo"},
		{row: "crun in", needs: "crun", command: []string{"sh", "-c", nested("crun")}, sees: "^inner\n",
			refuses: "invalid file system type on '/sys/fs/cgroup'"},
		{row: "libcgroup", needs: "cgget", command: []string{"cgget", "-n", "-v", "-r", memoryLimit, "/"}, sees: fmt.Sprintf("^%d\n", clientMemory),
			refuses: "libcgroup initialization failed: Cgroup is not mounted"},
	}
}

// What a Java is asked, and what it prints when it has found the limits: 25 names the controller of the first.
var (
	javaArgs = []string{"-XX:+UseSerialGC", "-Xlog:os+container=trace", "-version"}
	javaSees = fmt.Sprintf("(?s)active_processor_count: 1\n.*(Memory Limit is|Hierarchical Memory Limit is): %d\n", clientMemory)
)

// newJDK is the variable that names a directory with the files of a Java of version 25 and of its C library, and inJDK where containers
// have it: whose root is not the host's may not look into the host's root's home.
const (
	newJDK = "VCGROUPFS_JDK"
	inJDK  = "/jdk"
)

// newJava is the command of that Java, which is run by the C library that it wants; nil where it is not here.
func newJava() []string {
	dir := os.Getenv(newJDK)
	java, _ := filepath.Glob(filepath.Join(dir, "usr/lib/jvm/java-25-*/bin/java"))
	if dir == "" || len(java) == 0 {
		return nil
	}
	const lib = inJDK + "/usr/lib/x86_64-linux-gnu"
	path := lib + ":" + inJDK + "/lib/x86_64-linux-gnu"
	return []string{lib + "/ld-linux-x86-64.so.2", "--library-path", path, inJDK + strings.TrimPrefix(java[0], dir)}
}

// jdkRow is the row of the Java that is installed. In July 2026 the older lines, too, got the newest one's way to tell v2 (JDK-8349988).
func jdkRow() string {
	out, _ := exec.Command("java", "-XX:-UsePerfData", "-version").CombinedOutput() // which leaves nothing in /tmp
	version := regexp.MustCompile(`version "(\d+).*" (\d{4}-\d{2})`).FindStringSubmatch(string(out))
	if version != nil && (len(version[1]) < 2 || version[1] >= "25" || version[2] >= "2026-07") {
		return "JDK 25 and"
	}
	return "JDK 11 "
}

// nested runs a container in the container, of the bundle that testClients puts there. Its cgroup must have come into being.
func nested(runtime string) string {
	return "set -e; mkdir -p /tmp/rootfs && cp /bin/busybox /tmp/rootfs && cp /inner.json /tmp/config.json && " +
		runtime + " --root /tmp/" + runtime + " run --bundle /tmp inner-" + runtime
}

// rustProgram is built beside the program under test where there is a compiler for it.
func rustProgram() string { return filepath.Join(filepath.Dir(os.Getenv("VCGROUPFS")), "parallelism") }

// need skips a test where a program is missing, or is older than what the row in doctor's table is of.
func (c client) need(t *testing.T, hier *host.Hierarchy) {
	switch c.needs {
	case "":
		return
	case newJDK:
		if newJava() == nil {
			t.Skip("machine: no Java of version 25 is unpacked (.ci/jdk.sh), " + newJDK + " names no directory of it")
		}
		return
	case "rustc":
		if !kit.Exists(rustProgram()) {
			t.Skip("machine: rustc was not installed when the tests were built")
		}
		return
	}
	if _, err := exec.LookPath(c.needs); err != nil {
		t.Skipf("machine: %s is not installed", c.needs)
	}
	if c.needs == "node" && hier.Version == hierarchy.V2 {
		out, err := exec.Command("node", "-p", "process.versions.uv").Output()
		if uv := strings.TrimSpace(string(out)); err == nil && strings.HasPrefix(uv, "1.44.") {
			t.Skipf("machine: node has libuv %s, which knows no cgroup2", uv)
		}
	}
}

// TestClients runs programs that look for limits in containers that have some, and compares what each makes of what it finds at
// /sys/fs/cgroup with what doctor says of that.
func TestClients(t *testing.T) {
	h := kit.OpenHost(t)
	memory := kit.NeedHierarchy(t, h, "memory")
	// A JDK looks into /proc/cgroups, too.
	forms := map[string][]string{"stack": {"--proc-cgroups"}, "plain": {"--no-stack"}}
	if memory.Version == hierarchy.V1 {
		forms["tmpfs-stack"], forms["tmpfs"], forms["nothing"] = []string{"--tmpfs"}, []string{"--tmpfs", "--no-stack"}, nil
		forms["lent-stack"], forms["lent"] = []string{"--layout", "v2", "--proc-cgroups"}, []string{"--layout", "v2", "--no-stack"}
	}
	for name, args := range forms {
		t.Run(name, func(t *testing.T) {
			testClients(t, h, memory, kit.StartDaemonWith(t, kit.Program(t), []string{"--no-bpf"}), name == "nothing", args...)
		})
		if name == "nothing" {
			continue
		}
		t.Run(name+"-bpf", func(t *testing.T) {
			kit.NeedType(t)
			testClients(t, h, memory, kit.StartDaemon(t), false, args...)
		})
	}
}

func testClients(t *testing.T, h *host.Host, memory *host.Hierarchy, d *kit.Daemon, nothing bool, hookArgs ...string) {
	runc := kit.NeedRuntime(t, "runc")
	b := kit.NewBundle(t, d, runc, "clients", "commands", hookArgs...)
	b.OverHost(t, map[string]string{"parallelism": kit.ReadFile(rustProgram()), "inner.json": innerConfig(t, b), inJDK + "/here": ""})
	b.WithNamespaces("cgroup", "user") // where nothing but the view bounds what a container in it does
	b.Allow(kit.AllCapabilities(t))
	b.Mount("tmpfs", "tmpfs", "/tmp", "mode=1777") // the machines' own belongs to the host's root alone
	if dir := os.Getenv(newJDK); dir != "" {
		b.Mount("bind", dir, inJDK, "rbind", "ro")
	}
	delete(b.Linux(), "seccomp")
	delete(b.Linux(), "maskedPaths")
	delete(b.Linux(), "readonlyPaths")
	b.Linux()["resources"] = map[string]any{
		"memory": map[string]any{"limit": clientMemory}, "pids": map[string]any{"limit": clientPids},
		"cpu": map[string]any{"quota": 100000, "period": 100000},
	}
	if nothing { // so that what is seen elsewhere is seen in the view
		delete(b.Config, "hooks")
		b.Config["mounts"] = withoutCgroups(b.Config["mounts"])
	}
	b.Write(t)
	cmd := b.Command(runc)
	cmd.Stderr = os.Stderr
	x := kit.StartProcess(t, cmd)
	x.Ask(t, "read", "/proc/self/cgroup") // it runs
	says := d.DoctorOf(t, kit.InitOf(t, runc, b))
	if bpf := strings.HasSuffix(t.Name(), "-bpf"); (says.TypeRight == "yes") != bpf && !nothing {
		t.Fatalf("with BPF: %v, and doctor says that the type is right: %s", bpf, says.TypeRight)
	}
	version := memory.Version
	if slices.Contains(hookArgs, "v2") {
		version = hierarchy.V2
	}
	for _, c := range clients(version) {
		t.Run(strings.ReplaceAll(c.row, " ", "-"), func(t *testing.T) {
			c.need(t, memory)
			args := append([]string{"exec", "--env", kit.RoleVariable + "=client", "--env", "PATH=" + os.Getenv("PATH"), b.ID}, c.command...)
			out, err := exec.Command(runc, args...).CombinedOutput()
			got, want := c.verdict(t, out, err), says.Of(c.row)
			if got != want && want != "?" && !(nothing && want == "-" && got != "yes") {
				t.Errorf("finds %s: %s, and doctor says %q; it printed:\n%.2000s", says.Sight, got, want, out)
			}
		})
	}
	x.End(t)
	kit.WantNothingLeft(t, d, h, b.Cgroup)
	d.Stop(t)
}

// verdict is what a client makes of what it finds, by what it printed and how it ended.
func (c client) verdict(t *testing.T, out []byte, err error) string {
	t.Helper()
	switch {
	case err == nil && regexp.MustCompile(c.sees).Match(out):
		return "yes"
	case err == nil:
		return "ignores"
	case c.refuses != "" && regexp.MustCompile(c.refuses).Match(out):
		t.Logf("refuses: %s", strings.TrimSpace(string(out)))
		return "no"
	}
	t.Fatalf("failed for another reason than what it finds: %v: %.2000s", err, out)
	return ""
}

// innerConfig is the configuration of a container in the container, with the runtime's usual mount of cgroups.
func innerConfig(t *testing.T, outer *kit.Bundle) string {
	t.Helper()
	var config map[string]any
	if err := json.Unmarshal([]byte(kit.ReadFile(filepath.Join(outer.Dir, "config.json"))), &config); err != nil {
		t.Fatal(err)
	}
	process := config["process"].(map[string]any)
	process["terminal"], process["args"] = false, []string{"/busybox", "echo", "inner"}
	raw, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func withoutCgroups(mounts any) []any {
	return slices.DeleteFunc(mounts.([]any), func(m any) bool { return m.(map[string]any)["type"] == "cgroup" })
}

// TestClientsCpuset: a container that has one processor of the host's finds it in the file that btop reads, and in its like on v1;
// and btop shows what doctor says that it does.
func TestClientsCpuset(t *testing.T) {
	runc := kit.NeedRuntime(t, "runc")
	h := kit.OpenHost(t)
	hier := kit.NeedHierarchy(t, h, "cpuset")
	file, all := "cpuset.cpus.effective", []string{}
	if hier.Version == hierarchy.V1 {
		file = "cpuset.effective_cpus"
	}
	for i := range runtime.NumCPU() {
		all = append(all, strconv.Itoa(i))
	}
	d := kit.StartDaemon(t)
	b := kit.NewBundle(t, d, runc, "cpuset", "commands")
	b.OverHost(t, nil)
	b.WithNamespaces("cgroup")
	b.Linux()["resources"] = map[string]any{"cpu": map[string]any{"cpus": "1"}}
	b.Write(t)
	x := kit.StartProcess(t, b.Command(runc))
	if got := x.Ask(t, "read", kit.TopOf(kit.GuestView, hier)+"/"+file); got != "1\n" {
		t.Errorf("%s: %q", file, got)
	}
	t.Run("btop", func(t *testing.T) {
		cores := btopCores(t, runc, b)
		verdict, want := d.DoctorOf(t, kit.InitOf(t, runc, b)).Of("btop"), []string{"1"}
		if verdict == "ignores" {
			want = all
		}
		if !slices.Equal(cores, want) {
			t.Errorf("btop shows the processors %q, and doctor says %q", cores, verdict)
		}
	})
	x.End(t)
	kit.WantNothingLeft(t, d, h, b.Cgroup)
	d.Stop(t)
}

// btopCores are the processors that btop shows in a container as some that may be used. It wants a newer C library than Debian 12
// has, and brings it along.
func btopCores(t *testing.T, runc string, b *kit.Bundle) []string {
	t.Helper()
	dir := os.Getenv("VCGROUPFS_BTOP")
	if dir == "" {
		t.Skip("machine: btop 1.4.6 or newer is not unpacked, VCGROUPFS_BTOP names no directory of it")
	}
	lib := filepath.Join(dir, "usr/lib/x86_64-linux-gnu")
	cmd := exec.Command(runc, "exec", "--tty", "--env", "TERM=xterm", "--env", "HOME=/tmp", b.ID, filepath.Join(lib, "ld-linux-x86-64.so.2"),
		"--library-path", lib, filepath.Join(dir, "usr/bin/btop"), "--force-utf", "--update", "500")
	screen := kit.StartOnTerminal(t, cmd)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the screen: %.4000q", screen.Text())
		}
	})
	label := regexp.MustCompile(`\x1b\[38;2;([0-9;]*)m\x1b\[1mC\x1b\[22m(\d+)`) // C0, C1…
	const foreground = "204;204;204"                                            // of those that may be used; the others are dark
	drawn := map[string]int{}
	var cores []string
	kit.Eventually(t, "btop to draw all processors twice", func() bool {
		clear(drawn)
		cores = nil
		for _, found := range label.FindAllStringSubmatch(screen.Text(), -1) {
			if drawn[found[2]]++; drawn[found[2]] == 2 && found[1] == foreground {
				cores = append(cores, found[2])
			}
		}
		return len(drawn) == runtime.NumCPU() && slices.Min(slices.Collect(maps.Values(drawn))) > 1
	})
	slices.Sort(cores)
	screen.Master.WriteString("q")
	if err := cmd.Wait(); err != nil {
		t.Errorf("btop ended with %v", err)
	}
	return cores
}
