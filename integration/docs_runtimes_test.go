package integration

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// docsJSON decodes the members of an object that the docs show without its braces.
func docsJSON(t *testing.T, file, begins string) (members map[string]json.RawMessage) {
	t.Helper()
	block := docsText(t, file, "json", begins)
	if err := json.Unmarshal([]byte("{"+block+"}"), &members); err != nil {
		t.Fatalf("%s: %v in\n%s", file, err, block)
	}
	return members
}

// TestDocsOCI: a bundle with the hooks that the docs show has its view, and nothing is left of it.
func TestDocsOCI(t *testing.T) {
	h := kit.OpenHost(t)
	hier := kit.NeedHierarchy(t, h, "pids")
	runtime := kit.NeedRuntime(t, kit.OCIRuntimes(t)[0])
	kit.NeedPlainCrun(t, h, runtime)
	d := kit.StartDaemon(t)
	b := kit.NewBundle(t, d, runtime, "docs", "script")
	hooks := docsJSON(t, "docs/runtimes.md", `"hooks": {`)["hooks"]
	here := strings.NewReplacer("/usr/bin/vcgroupfs", kit.AbsProgram(t), `"hook", "oci"`, `"hook", "oci", "--socket", "`+d.Socket+`"`)
	b.Config["hooks"] = json.RawMessage(here.Replace(string(hooks)))
	b.Allow(kit.AllCapabilities(t))
	b.Write(t)
	s := kit.ViewScript(kit.TopOf(kit.GuestView, hier), hier.Version == hierarchy.V2)
	s.Put(t, filepath.Join(b.Dir, "rootfs"))
	out, err := b.Command(runtime).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	s.Check(t, filepath.Join(b.Dir, "rootfs"), out)
	kit.WantNothingLeft(t, d, h, b.Cgroup)
	d.Stop(t)
}

// TestDocsProfile: the calls that the docs' seccomp profile asks about are those of the profiles that are installed.
func TestDocsProfile(t *testing.T) {
	var profile struct {
		ListenerPath string
		Syscalls     []struct {
			Names  []string
			Action string
		}
	}
	if err := json.Unmarshal(docsJSON(t, "docs/runtimes.md", `"seccomp": {`)["seccomp"], &profile); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"podman", "docker"} {
		installed := profile
		installed.Syscalls = nil
		raw, err := os.ReadFile(filepath.Join("..", "packaging", "seccomp", name+".json"))
		if err == nil {
			err = json.Unmarshal(raw, &installed)
		}
		if err != nil {
			t.Fatal(err)
		}
		asked := map[string]bool{}
		for _, s := range installed.Syscalls {
			for _, call := range s.Names {
				asked[call] = asked[call] || s.Action == "SCMP_ACT_NOTIFY"
			}
		}
		for _, s := range profile.Syscalls {
			for _, call := range s.Names {
				if want := s.Action == "SCMP_ACT_NOTIFY"; asked[call] != want {
					t.Errorf("%s.json: that %s is asked about is %v, in the docs %v", name, call, asked[call], want)
				}
			}
		}
		if installed.ListenerPath != profile.ListenerPath {
			t.Errorf("%s.json hands the listener to %s, the docs' to %s", name, installed.ListenerPath, profile.ListenerPath)
		}
	}
}

// TestDocsBind: a sandbox that binds a view, and one that binds self, by the docs' own lines.
func TestDocsBind(t *testing.T) {
	sandbox, err := exec.LookPath("bwrap")
	if err != nil {
		t.Skip("machine: bwrap is not installed")
	}
	h := kit.OpenHost(t)
	docsHost(t)
	path := kit.NewBoundary(t, "docs-box", h.Hierarchies()...)
	var enter strings.Builder
	for _, hier := range h.Hierarchies() { // "on v1 in each hierarchy"
		line := docsLine(t, "docs/runtimes.md", "echo $$ >")
		enter.WriteString(strings.Replace(line, "/sys/fs/cgroup/machines/box/cgroup.procs", filepath.Join(kit.HostDir(hier, path), kit.Procs), 1) + "\n")
	}
	add := "vcgroupfs serve --no-bpf " + strings.TrimPrefix(waited, "serve ") + "\n" + docsLine(t, "docs/runtimes.md", "vcgroupfs guest add box") + "\n" + enter.String()
	out := paste(t, add+docsLine(t, "docs/runtimes.md", "bwrap --bind / /")+" -c 'ls /sys/fs/cgroup; cat /sys/fs/cgroup/pids/pids.max'\n", "/machines/box", path, "bwrap", sandbox)
	if !strings.Contains(out, "\nmemory\npids\nmax\n") {
		t.Errorf("it printed:\n%s", out)
	}
	system := sandbox + " --ro-bind /usr /usr --symlink usr/bin /bin --symlink usr/lib /lib --symlink usr/lib64 /lib64 --proc /proc --dev /dev --bind /run/vcgroupfs/serve/views/box /sys/fs/cgroup"
	out = paste(t, add+docsLine(t, "docs/runtimes.md", "bwrap ... --ro-bind")+"\n", "/machines/box", path, "bwrap ...", system,
		"/usr/bin/vcgroupfs", kit.AbsProgram(t), "COMMAND", "stat -f -c %T /sys/fs/cgroup/pids")
	if !strings.Contains(out, "\ncgroupfs\n") {
		t.Errorf("it printed:\n%s", out)
	}
	bind := strings.NewReplacer("bwrap …", sandbox+" --bind / / --proc /proc", " …", " --unshare-pid cat /sys/fs/cgroup/pids/pids.max").
		Replace(docsLine(t, "docs/runtimes.md", "bwrap … --bind /run"))
	for _, serve := range []string{docsLine(t, "docs/runtimes.md", "vcgroupfs serve --self"), docsLine(t, "README.md", "vcgroupfs serve --self")} {
		out = paste(t, strings.TrimSuffix(serve, "&")+" --container '"+path+"' "+strings.TrimPrefix(waited, "serve ")+"\n"+enter.String()+bind+"\n")
		if !strings.Contains("\n"+out, "\nmax\n") { // among what the daemon has to say
			t.Errorf("%s: it printed:\n%s", serve, out)
		}
	}
}

// TestDocsNspawn: a container of systemd-nspawn whose first program is notify-exec, by the docs' own line.
func TestDocsNspawn(t *testing.T) {
	sandbox, err := exec.LookPath("systemd-nspawn")
	if err != nil {
		t.Skip("machine: systemd-nspawn is not installed")
	}
	h := kit.OpenHost(t)
	hier := kit.NeedHierarchy(t, h, hierarchy.Unified)
	path := kit.NewBoundary(t, "docs-nspawn", hier)
	kit.RemoveEverywhere(t, h, path)
	d := kit.StartDaemon(t)
	d.WantTry(t, 0, "views/box", "guest", "add", "box", "--boundary", path, "--controllers", hierarchy.Unified)
	rootfs := kit.NewRootfs(t, filepath.Join(kit.PublicDir(t), "rootfs"))
	s := kit.UnifiedScript(kit.GuestView)
	s.Put(t, rootfs)
	line := strings.NewReplacer("systemd-nspawn ...", sandbox+" --quiet --register=no --keep-unit --as-pid2 --directory "+rootfs+
		" --bind "+filepath.Join(filepath.Dir(d.Socket), "views", "box")+":"+kit.GuestView+" --setenv "+kit.RoleVariable+"=script",
		"/usr/bin/vcgroupfs", kit.AbsProgram(t), "/lib/systemd/systemd", "/program").Replace(docsLine(t, "docs/runtimes.md", "systemd-nspawn ..."))
	start := kit.CommandWithin(path, []*host.Hierarchy{hier}, "sh", "-c", line)
	start.Env = append(os.Environ(), "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1")
	out, err := start.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", line, err, out)
	}
	s.Check(t, rootfs, out)
	d.WantTry(t, 0, "", "guest", "rm", "box")
	d.Stop(t)
}

// docsShell runs lines of the docs in a shell that has the program, the socket of a daemon, and a runtime's client whose first options, and
// first of its command "run", are this test's.
func docsShell(t *testing.T, d *kit.Daemon, name string, client, ofRun []string, lines ...string) (string, error) {
	t.Helper()
	bin := t.TempDir()
	quoted := func(words []string) string { return "'" + strings.Join(words, "' '") + "'" }
	script := "#!/bin/sh\n[ \"$1\" != run ] || { shift; exec " + quoted(client) + " run " + quoted(ofRun) + " \"$@\"; }\nexec " + quoted(client) + " \"$@\"\n"
	if err := os.WriteFile(filepath.Join(bin, name), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-ec", strings.Join(lines, "\n"))
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+filepath.Dir(kit.AbsProgram(t))+":"+os.Getenv("PATH"), "VCGROUPFS_SOCKET="+d.Socket)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestDocsDocker: a container with self as a volume finds its view, by the docs' own lines.
func TestDocsDocker(t *testing.T) {
	h := kit.OpenHost(t)
	hier := kit.NeedHierarchy(t, h, "memory")
	d := kit.StartSelfDaemon(t, "--container", kit.DockerCgroup()+"/{id}", "--self-controllers", "memory,pids")
	k := kit.StartDocker(t, h, t.TempDir(), false)
	limit := "memory.max"
	if hier.Version == hierarchy.V1 {
		limit = "memory.limit_in_bytes"
	}
	top := kit.TopOf(kit.GuestView, hier)
	for _, line := range []string{docsLine(t, "README.md", "docker run"), docsLine(t, "docs/runtimes.md", "docker run")} {
		line = strings.NewReplacer("/run/vcgroupfs/serve/self", d.Self(), "IMAGE", "program /program").Replace(line)
		out, err := docsShell(t, d, "docker", k.Client, []string{"--rm", "--network", "none", "--env", kit.RoleVariable + "=read " + top + "/" + limit}, line)
		if err != nil || out != "268435456\n" {
			t.Errorf("%s: %v, %s", line, err, out)
		}
		d.WantNone(t)
	}
	d.Stop(t)
}

// TestDocsPodman: podman's containers have views by the docs' own lines: by an annotation, by CDI, and when they run already.
func TestDocsPodman(t *testing.T) {
	program := kit.NeedPodman(t)
	kit.NeedRuntime(t, "runc")
	h := kit.OpenHost(t)
	hier := kit.NeedHierarchy(t, h, "pids")
	d := kit.StartSelfDaemon(t, "--container", "/"+kit.Prefix+"podman/libpod-{id}")
	p := kit.NewPodman(t, h, program)
	hooks, devices := t.TempDir(), t.TempDir()
	kit.InstallPackaged(t, d, "../packaging/runtimes/vcgroupfs.json", filepath.Join(hooks, "vcgroupfs.json"), "")
	kind := kit.PackagedDevices(t, d, devices)
	packaged, err := filepath.Glob(devices + "/*.json")
	if err != nil || len(packaged) != 1 {
		t.Fatalf("%q, %v", packaged, err)
	}
	installed := filepath.Join(kit.PodmanCDI, "vcgroupfs-docs-"+strconv.Itoa(os.Getpid())+".json")
	t.Cleanup(func() {
		os.Remove(installed)
		os.Remove(kit.PodmanCDI) // unless somebody else's are there
	})
	rootfs := kit.NewRootfs(t, filepath.Join(kit.PublicDir(t), "rootfs"))
	names := strings.NewReplacer("/usr/share/vcgroupfs/cdi.json", packaged[0], "/etc/cdi/vcgroupfs.json", installed, "vcgroupfs.dev/cgroup=", kind+"=",
		"IMAGE", "--rootfs "+rootfs+" /program", "4711", "$(podman inspect --format '{{.State.Pid}}' db)")
	client := slices.Concat([]string{program}, p.Global, []string{"--hooks-dir", hooks})
	ofRun := []string{"--rm", "--network", "none", "--cgroup-parent", p.Parent, "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000",
		"--env", kit.RoleVariable + "=script", "--pids-limit", "64"}
	shell := func(line string) (string, error) {
		return docsShell(t, d, "podman", client, ofRun, names.Replace(line))
	}
	if out, err := shell(docsLine(t, "docs/runtimes.md", "install -D -m 644")); err != nil || out != "" {
		t.Fatalf("%v: %s", err, out)
	}
	for _, line := range []string{
		docsLine(t, "docs/runtimes.md", "podman run --annotation"), docsLine(t, "docs/runtimes.md", "podman run --device vcgroupfs.dev/cgroup=view"),
		docsLine(t, "docs/runtimes.md", "podman run --device vcgroupfs.dev/cgroup=self"),
	} {
		s := kit.ViewScript(kit.TopOf(kit.GuestView, hier), hier.Version == hierarchy.V2)
		s.Put(t, rootfs)
		out, err := shell(line)
		if err != nil {
			t.Fatalf("%s: %v: %s", line, err, out)
		}
		s.Check(t, rootfs, []byte(out))
		d.WantNone(t)
	}
	cmd := p.Run("commands", rootfs, nil, []string{"--interactive", "--name", "db", "--pids-limit", "64",
		"--cap-add", "SYS_ADMIN", "--cgroupns", "private"}) // which on a host with v1 is not podman's default
	cmd.Stderr = os.Stderr
	x := kit.StartProcess(t, cmd)
	x.Ask(t, "read", "/proc/version") // it runs
	limit := kit.TopOf(kit.GuestView, hier) + "/pids.max"
	for _, add := range []string{docsLine(t, "docs/runtimes.md", "vcgroupfs guest add db"), docsLine(t, "README.md", "vcgroupfs guest add db")} {
		for _, step := range []struct{ line, want string }{
			{add, "EPERM"}, {docsLine(t, "docs/runtimes.md", "vcgroupfs guest attach db"), "EPERM"}, {docsLine(t, "docs/runtimes.md", "vcgroupfs guest rm db"), ""},
		} {
			if out, err := shell(step.line); err != nil {
				t.Fatalf("%s: %v: %s", step.line, err, out)
			}
			if step.want == "" {
				d.WantNone(t)
				continue
			}
			if got := x.Ask(t, "write", limit, "max"); got != step.want {
				t.Errorf("after %s the guest's write of its limit gets %s, want %s", step.line, got, step.want)
			}
			if got := x.Ask(t, "umount", kit.GuestView); got != "ok" {
				t.Errorf("umount: %s", got)
			}
		}
	}
	x.End(t)
	d.Stop(t)
}

// TestDocsDeclared: the declaration that the docs show makes a guest as they say.
func TestDocsDeclared(t *testing.T) {
	docsHost(t)
	path := kit.NewBoundary(t, "docs-declared", kit.OpenHost(t).Hierarchies()...)
	text := docsText(t, "docs/operations.md", "yaml", "boundary: ")
	out := paste(t, "mkdir /srv/guests\ncat >/srv/guests/web.yaml <<'END'\n"+text+"\nEND\nvcgroupfs serve --guests /srv/guests &\n"+
		"until vcgroupfs guest show web 2>/dev/null; do sleep 0.1; done\ncat /srv/web/rootfs/sys/fs/cgroup/pids/pids.max\n",
		"/machines/web", path, "memory.max: 512M", "memory.limit_in_bytes: 512M")
	if !strings.Contains(out, "\n200\n") {
		t.Errorf("it printed:\n%s", out)
	}
}
