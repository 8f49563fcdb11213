package integration

import (
	"cmp"
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/vcgroupfs/vcgroupfs/fs/conn"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// The limits of a container that a runtime in a guest starts.
const (
	innerMemory = 64 << 20
	innerPids   = 20
	// The memory of the guest, whose files are in it, too.
	runtimesMemory = 1 << 30
)

// innerRuntime is a program of a tree that starts a container in a guest.
type innerRuntime struct {
	name    string
	suite   string // the only one that has it, if so
	start   string // the shell's commands that start it, with LIMITS: of a bundle or a root file system in /tmp/inner
	end     string // and those that end it
	cgroup  string // a pattern of the cgroup that the host finds, below the boundary
	refuses string // what it says where it knows no such file system
	says    string // what it says of itself on v2
	hybrid  bool   // in a hybrid it asks for no type, but looks into mountinfo
}

// config is the configuration of which it starts a container, if it is one that takes it.
func (r innerRuntime) config() string {
	return cmp.Or(map[string]string{"crun": "crun.json", "containerd": "containerd.json"}[r.name], "runc.json")
}

const (
	noCgroupMount = "no cgroup mount found in mountinfo"           // runc
	wrongType     = "invalid file system type on .*/sys/fs/cgroup" // crun
)

// innerRuntimes start a container, each as its own command line has it.
var innerRuntimes = []innerRuntime{
	{
		name: "runc", refuses: noCgroupMount, hybrid: true, cgroup: "/inner-runc",
		start: "runc --root /tmp/runc run --detach --bundle /tmp/inner runc",
		end:   "runc --root /tmp/runc delete --force runc",
	},
	{
		name: "crun", refuses: wrongType, cgroup: "/inner-crun",
		start: "crun --root /tmp/crun run --detach --bundle /tmp/inner crun",
		end:   "crun --root /tmp/crun delete --force crun",
	},
	{
		name: "podman", refuses: wrongType, cgroup: "/inner-podman/libpod-*",
		start: podmanInside + "run --detach --name inner --network none LIMITS --cgroup-parent /inner-podman " +
			"--env " + kit.RoleVariable + "=pause --rootfs /tmp/inner/rootfs /program",
		end: podmanInside + "rm --force --time 0 inner",
	},
	{
		name: "containerd", suite: "trixie", refuses: noCgroupMount, hybrid: true, cgroup: "/inner-containerd",
		start: inBackground("containerd", "containerd --config /containerd.toml") +
			" && " + untilOK(ctrInside+"version") +
			" && " + ctrInside + "run --detach --config /tmp/inner/config.json inner",
		end: ctrInside + "tasks rm --force inner; " + ctrInside + "containers rm inner; " + endBackground("containerd"),
	},
	{
		name: "docker", suite: "trixie", refuses: noCgroupMount, hybrid: true, cgroup: "/inner-docker/*",
		says: "Cgroup Version: 2\n",
		start: inBackground("dockerd", "dockerd --config-file /dockerd.json") +
			" && " + untilOK(dockerInside+"version") +
			" && tar -C /tmp/inner/rootfs -c . | " + dockerInside + "import - program" +
			" && " + dockerInside + "run --detach --name inner --network none LIMITS --cgroup-parent /inner-docker " +
			"--env " + kit.RoleVariable + "=pause program /program" +
			" && " + dockerInside + "info",
		end: dockerInside + "rm --force inner; " + endBackground("dockerd"),
	},
}

// innerFiles are what these read.
var innerFiles = map[string]string{
	"containerd.toml": `version = 2
root = "/run/c/root"
state = "/run/c/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "/run/c/sock"
[ttrpc]
  address = "/run/c/ttrpc"
`,
	"dockerd.json": `{
"data-root": "/run/d/data", "exec-root": "/run/d/exec", "pidfile": "/run/d/pid", "hosts": ["unix:///run/d/sock"],
"storage-driver": "vfs", "bridge": "none", "iptables": false, "ip6tables": false, "ip-forward": false,
"ip-masq": false, "userland-proxy": false
}`,
}

const (
	ctrInside    = "ctr --address /run/c/sock "
	dockerInside = "docker --config /tmp --host unix:///run/d/sock "
)

// inBackground is a command of the shell that starts another, which goes on.
func inBackground(name, command string) string {
	return "{ " + command + " >/tmp/" + name + ".log 2>&1 & echo $! >/tmp/" + name + ".pid; }"
}

// endBackground ends it, and says what it said last. Nobody waits for its process in the guest: it stays as a zombie.
func endBackground(name string) string {
	return "tail -n 5 /tmp/" + name + ".log; pid=$(cat /tmp/" + name + ".pid); kill $pid; " +
		"for i in $(seq 100); do read -r _ _ state _ </proc/$pid/stat; [ $state != Z ] || break; sleep 0.1; done"
}

// untilOK is a command of the shell that waits for another to succeed.
func untilOK(command string) string {
	return "for i in $(seq 100); do " + command + " >/dev/null 2>&1 && break; sleep 0.3; done"
}

// podmanInside has all that podman makes in /tmp.
const podmanInside = "podman --root /tmp/p/root --runroot /tmp/p/run --tmpdir /tmp/p/tmp --storage-driver vfs " +
	"--cgroup-manager cgroupfs --runtime crun --events-backend none "

// TestUnmodifiedRuntimes: each suite's runtimes start a container in a guest, whose limits are found on the host.
func TestUnmodifiedRuntimes(t *testing.T) {
	for _, suite := range []string{"bookworm", "trixie", "forky"} {
		t.Run(suite, func(t *testing.T) {
			needTree(t, suite)
			eachForm(t, func(t *testing.T, h *host.Host, f guestForm, m mechanism, on bool) {
				g := startTreeGuest(t, h, suite, f, m, runtimesMemory)
				for _, r := range innerRuntimes {
					if r.suite == "" || r.suite == suite {
						t.Run(r.name, func(t *testing.T) { g.runs(t, r, on || f.name == "hybrid" && r.hybrid) })
					}
				}
				g.stop(t)
			})
		})
	}
}

// treeGuest is a guest over a suite's tree, with a user namespace and every capability in it: nothing but the view
// bounds what a container in it does.
type treeGuest struct {
	*kit.Bundle
	form    guestForm
	runtime string
	h       *host.Host
	d       *kit.Daemon
	x       *kit.Helper
}

func startTreeGuest(t *testing.T, h *host.Host, suite string, f guestForm, m mechanism, memory int) *treeGuest {
	t.Helper()
	runc := kit.NeedRuntime(t, "runc")
	d := kit.StartDaemonWith(t, kit.Program(t), m.options)
	b := kit.NewBundle(t, d, runc, "tree", "commands", f.hook...)
	files := maps.Clone(innerFiles)
	for _, name := range []string{"runc", "crun", "containerd"} {
		files[name+".json"] = innerSpec(t, b, name, f)
	}
	overTree(t, b, suite, files)
	b.WithNamespaces("cgroup", "user")
	b.Allow(kit.AllCapabilities(t))
	for _, key := range []string{"seccomp", "maskedPaths", "readonlyPaths"} {
		delete(b.Linux(), key)
	}
	withoutClone3(b)
	b.Linux()["resources"] = map[string]any{
		"memory": map[string]any{"limit": memory}, "pids": map[string]any{"limit": clientPids},
	}
	m.apply(t, d, b)
	b.Write(t)
	cmd := b.Command(runc)
	cmd.Stderr = os.Stderr
	x := kit.StartProcess(t, cmd)
	x.Ask(t, "read", "/proc/self/cgroup") // it runs
	return &treeGuest{b, f, runc, h, d, x}
}

// innerSpec is the configuration of a container in the container, which "runc spec" makes, with limits.
func innerSpec(t *testing.T, outer *kit.Bundle, runtime string, f guestForm) string {
	t.Helper()
	var config map[string]any
	if err := json.Unmarshal([]byte(kit.ReadFile(filepath.Join(outer.Dir, "config.json"))), &config); err != nil {
		t.Fatal(err)
	}
	inner := &kit.Bundle{Config: config}
	inner.WithNamespaces("cgroup")
	if f.name == "hybrid" && runtime == "crun" { // which mounts each hierarchy of the host's, hidden ones too
		config["mounts"] = withoutCgroups(config["mounts"])
	}
	process, resources := config["process"].(map[string]any), map[string]any{}
	process["terminal"], process["args"] = false, []string{"/program"}
	process["env"] = []string{kit.RoleVariable + "=pause"}
	config["root"] = map[string]any{"path": "/tmp/inner/rootfs"}
	if f.memory != nil {
		resources["memory"] = map[string]any{"limit": innerMemory}
		resources["pids"] = map[string]any{"limit": innerPids}
	}
	inner.Linux()["cgroupsPath"], inner.Linux()["resources"] = "/inner-"+runtime, resources
	raw, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// sh runs commands of the shell in the guest. What they leave running holds no pipe of this process.
func (g *treeGuest) sh(script string) (string, error) {
	script = "(" + script + ") >/tmp/said 2>&1 </dev/null; status=$?; cat /tmp/said; exit $status"
	out, err := exec.Command(g.runtime, "exec", "--env", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "--env", "HOME=/tmp",
		g.ID, "/bin/sh", "-c", script).CombinedOutput()
	return string(out), err
}

// runs has a runtime start a container, which the host finds below the boundary; or refuse.
func (g *treeGuest) runs(t *testing.T, r innerRuntime, on bool) {
	limits := ""
	if g.form.memory != nil {
		limits = "--memory 64m --pids-limit 20"
	}
	said, err := g.sh("mkdir -p /tmp/inner/rootfs && cd /tmp/inner && cp /program rootfs && " +
		"cp /" + r.config() + " config.json && " + strings.ReplaceAll(r.start, "LIMITS", limits))
	switch {
	case !on && (err == nil || !regexp.MustCompile(r.refuses).MatchString(said)):
		t.Errorf("%v: %s; want a refusal that says %q", err, said, r.refuses)
	case !on:
		t.Logf("refused: %s", regexp.MustCompile(".*"+r.refuses+".*").FindString(said))
	case err != nil:
		t.Errorf("%v: %s", err, said)
	default:
		g.finds(t, r.cgroup)
		if g.form.name == "v2" && !strings.Contains(said, r.says) {
			t.Errorf("it says of itself: %s; want %q", said, r.says)
		}
	}
	if said, err := g.sh(r.end); on && err != nil {
		t.Errorf("at the end: %v: %s", err, said)
	} else if t.Failed() {
		t.Log(said)
	}
}

// finds wants the host to find one container below the boundary, with its limits and a process.
func (g *treeGuest) finds(t *testing.T, pattern string) {
	t.Helper()
	found, _ := filepath.Glob(filepath.Join(kit.HostDir(g.form.hier, g.Cgroup+pattern), kit.Procs))
	if len(found) != 1 {
		t.Fatalf("the host finds %v by %s", found, pattern)
	}
	g.form.wants(t, strings.TrimPrefix(filepath.Dir(found[0]), kit.HostDir(g.form.hier, "")), innerMemory, innerPids)
}

func (g *treeGuest) stop(t *testing.T) {
	t.Helper()
	g.x.End(t)
	kit.WantNothingLeft(t, g.d, g.h, g.Cgroup)
	g.d.Stop(t)
}

// TestUnmodifiedJava: a JDK that looks at the type and at mountinfo takes its heap from the guest's limit.
func TestUnmodifiedJava(t *testing.T) {
	if !conn.KernelAtLeast(6, 5) {
		t.Skip("kernel: a view above another mount, which mountinfo shows, needs Linux 6.5")
	}
	needTree(t, "trixie")
	eachForm(t, func(t *testing.T, h *host.Host, f guestForm, m mechanism, on bool) {
		if f.memory != f.hier {
			t.Skip("machine: memory is on a v1 hierarchy, where TestClients asks a JDK")
		}
		f.hook = slices.DeleteFunc(slices.Clone(f.hook), func(o string) bool { return o == "--no-stack" })
		g := startTreeGuest(t, h, "trixie", f, m, clientMemory)
		out, err := g.sh("/usr/lib/jvm/java-25-openjdk-amd64/bin/java -XX:+UseSerialGC -XX:+PrintFlagsFinal -version")
		found := regexp.MustCompile(`(?s)\bMaxHeapSize += (\d+).*openjdk version "([^"]+)"`).FindStringSubmatch(out)
		if err != nil || found == nil {
			t.Fatalf("%v: %s", err, out)
		}
		// Half of a memory as small, a quarter of a larger one (MinRAMPercentage, MaxRAMPercentage).
		if inGuest := found[1] == strconv.Itoa(clientMemory/2); inGuest != on {
			t.Errorf("the guest may have %d bytes, the heap of Java %s may have %s", clientMemory, found[2], found[1])
		} else {
			t.Logf("the guest may have %d bytes, the heap of Java %s may have %s", clientMemory, found[2], found[1])
		}
		g.stop(t)
	})
}
