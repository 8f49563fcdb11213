package integration

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
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
	h := openHost(t)
	tree := need(t, h, "pids")
	runtime := needRuntime(t, ociRuntimes(t)[0])
	needPlainCrun(t, h, runtime)
	d := startDaemon(t)
	b := newBundle(t, d, runtime, "docs", "script")
	hooks := docsJSON(t, "docs/runtimes.md", `"hooks": {`)["hooks"]
	here := strings.NewReplacer("/usr/bin/vcgroupfs", absProgram(t), `"hook", "oci"`, `"hook", "oci", "--socket", "`+d.socket+`"`)
	b.config["hooks"] = json.RawMessage(here.Replace(string(hooks)))
	b.allow(allCapabilities(t))
	b.write(t)
	s := viewScript(topOf(guestView, tree), tree.Version == hierarchy.V2)
	s.put(t, filepath.Join(b.dir, "rootfs"))
	out, err := b.command(runtime).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	s.check(t, filepath.Join(b.dir, "rootfs"), out)
	nothingLeft(t, d, h, b.cgroup)
	d.stop(t)
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
	h := openHost(t)
	docsHost(t)
	path := boundary(t, "docs-box", h.Hierarchies()...)
	block := docsText(t, "docs/runtimes.md", "sh", "vcgroupfs guest add box")
	var enter strings.Builder
	for _, tree := range h.Hierarchies() { // "on v1 in each hierarchy"
		enter.WriteString("echo $$ >" + filepath.Join(hostDir(tree, path), procs) + "\n")
	}
	lines := strings.Split(block, "\n")
	out := paste(t, "vcgroupfs serve &\n"+lines[0]+"\n"+enter.String()+lines[2]+" -c 'ls /sys/fs/cgroup; cat /sys/fs/cgroup/pids/pids.max'\n",
		"/machines/box", path, "serve &", waited, "bwrap", sandbox)
	if !strings.Contains(out, "\nmemory\npids\nmax\n") {
		t.Errorf("it printed:\n%s", out)
	}
	lines = strings.Split(docsText(t, "docs/runtimes.md", "sh", "vcgroupfs serve --self"), "\n")
	serve, _, _ := strings.Cut(lines[0], "#")
	bind := strings.NewReplacer("bwrap …", sandbox+" --bind / / --proc /proc", " …", " --unshare-pid cat /sys/fs/cgroup/pids/pids.max").Replace(lines[3])
	out = paste(t, serve+"--container '"+path+"' "+strings.TrimPrefix(waited, "serve ")+"\n"+enter.String()+bind+"\n")
	if !strings.Contains("\n"+out, "\nmax\n") { // among what the daemon has to say
		t.Errorf("it printed:\n%s", out)
	}
}

// TestDocsDeclared: the declaration that the docs show makes a guest as they say.
func TestDocsDeclared(t *testing.T) {
	docsHost(t)
	path := boundary(t, "docs-declared", openHost(t).Hierarchies()...)
	text := docsText(t, "docs/operations.md", "yaml", "boundary: ")
	out := paste(t, "mkdir /srv/guests\ncat >/srv/guests/web.yaml <<'END'\n"+text+"\nEND\nvcgroupfs serve --guests /srv/guests &\n"+
		"until vcgroupfs guest show web 2>/dev/null; do sleep 0.1; done\ncat /srv/web/rootfs/sys/fs/cgroup/pids/pids.max\n",
		"/machines/web", path, "memory.max: 512M", "memory.limit_in_bytes: 512M")
	if !strings.Contains(out, "\n200\n") {
		t.Errorf("it printed:\n%s", out)
	}
}
