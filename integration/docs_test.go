package integration

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// docsBlock is the one block of commands in a file of the docs that has a line which begins so.
func docsBlock(t *testing.T, file, begins string) string {
	t.Helper()
	return docsText(t, file, "sh", begins)
}

// docsBlocks lists the blocks of a language in a file of the docs.
func docsBlocks(t *testing.T, file, language string) (blocks []string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", file))
	if errors.Is(err, os.ErrNotExist) {
		t.Skip("machine: the docs are not there")
	}
	if err != nil {
		t.Fatal(err)
	}
	for i, part := range strings.Split(string(text), "\n```") {
		if block, is := strings.CutPrefix(part, language+"\n"); i%2 == 1 && is {
			blocks = append(blocks, block)
		}
	}
	return blocks
}

// docsText is the one block of a language in a file of the docs that has a line which begins so.
func docsText(t *testing.T, file, language, begins string) string {
	t.Helper()
	var found []string
	for _, block := range docsBlocks(t, file, language) {
		if strings.Contains("\n"+block, "\n"+begins) {
			found = append(found, block)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%s has %d blocks of %s with a line that begins %q", file, len(found), language, begins)
	}
	return found[0]
}

// docsLine is the one shell line in a file of the docs that is so, or else that begins so, without the comment beside it.
func docsLine(t *testing.T, file, begins string) string {
	t.Helper()
	var found []string
	for _, block := range docsBlocks(t, file, "sh") {
		for line := range strings.Lines(block) {
			line, _, _ = strings.Cut(line, " # ")
			if line = strings.TrimSpace(line); line == begins {
				return line
			}
			if strings.HasPrefix(line, begins) {
				found = append(found, line)
			}
		}
	}
	if len(found) != 1 {
		t.Fatalf("%s has %d shell lines that begin %q", file, len(found), begins)
	}
	return found[0]
}

// paste runs commands of the docs as if they were pasted into a shell in namespaces of its own, with /run and /srv empty,
// the program in the path, and names of this test instead of those in the docs.
func paste(t *testing.T, commands string, names ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	script := filepath.Join(t.TempDir(), "commands")
	commands = strings.NewReplacer(names...).Replace(commands)
	start := "mount -t tmpfs tmpfs /run\nmount -t tmpfs tmpfs /srv\nmkdir -p /srv/web/rootfs/sys/fs/cgroup\n"
	if err := os.WriteFile(script, []byte(start+commands), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-e", script)
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(kit.AbsProgram(t))+":"+os.Getenv("PATH"))
	cmd.Dir = ".."
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v, it printed:\n%s\nthe commands:\n%s", err, out, commands)
	}
	return string(out)
}

// waited has a daemon that a line starts in the background be there before the next line.
const waited = "serve &\nuntil vcgroupfs guest ls >/dev/null 2>&1; do sleep 0.1; done\n#"

// docsHost are the hierarchies that the docs' examples name: the README's host has them with v1.
func docsHost(t *testing.T) (hierarchies []*host.Hierarchy) {
	t.Helper()
	h := kit.OpenHost(t)
	for _, c := range []string{"memory", "pids", "cpu"} {
		hier := kit.NeedHierarchy(t, h, c)
		if hier.Version == hierarchy.V2 {
			t.Skipf("machine: %s is not on a v1 hierarchy", c)
		}
		if !slices.Contains(hierarchies, hier) {
			hierarchies = append(hierarchies, hier)
		}
	}
	return hierarchies
}

// TestReadmeRun: the README's first guest does what the comments beside its commands say.
func TestReadmeRun(t *testing.T) {
	docsHost(t)
	inside := docsBlock(t, "README.md", "ls /sys/fs/cgroup")
	start := docsBlock(t, "README.md", "bin/vcgroupfs run")
	out := paste(t, strings.TrimSpace(start)+" <<'END'\n"+inside+"\nEND\n", "make build\n", "")
	if !strings.HasPrefix(out, "memory\npids\n") || !strings.Contains(out, "pids.max: Operation not permitted\n") {
		t.Errorf("it printed:\n%s", out)
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if last := lines[len(lines)-1]; strings.Trim(last, "0123456789") != "" {
		t.Errorf("no process is in its child cgroup: %q", out)
	}
}

// TestReadmeServe: one daemon, a guest, and its worker killed.
func TestReadmeServe(t *testing.T) {
	path := kit.NewBoundary(t, "readme", docsHost(t)...)
	names := []string{"/machines/web", path, "serve &", waited}
	out := paste(t, docsBlock(t, "README.md", "vcgroupfs guest add web"), names...)
	if !strings.Contains(out, "web") || !strings.Contains(out, "\n0\n") { // the daemon's own lines come when they come
		t.Errorf("it printed:\n%s", out)
	}
	mount := strings.TrimSpace(docsBlock(t, "README.md", "vcgroupfs mount"))
	out = paste(t, mount+" &\nuntil cat /srv/web/rootfs/sys/fs/cgroup/pids/pids.current 2>/dev/null; do sleep 0.1; done\nkill $!\nwait $!\n", names...)
	if !strings.Contains("\n"+out, "\n0\n") || !strings.Contains(out, "the view is mounted at /srv/web/rootfs/sys/fs/cgroup\n") {
		t.Errorf("it printed:\n%s", out)
	}
}

// TestDocsReady: a script that waits for the daemon.
func TestDocsReady(t *testing.T) {
	kit.OpenHost(t)
	if out := paste(t, docsBlock(t, "docs/operations.md", "mkfifo")); !strings.Contains(out, "NAME") {
		t.Errorf("guest ls printed:\n%s", out)
	}
}

// TestDocsGuests: guests by hand, one of them of a process that runs; and what asks whether the daemon is well.
func TestDocsGuests(t *testing.T) {
	hierarchies := kit.OpenHost(t).Hierarchies() // a container has a cgroup in each
	path, other := kit.NewBoundary(t, "docs", docsHost(t)...), kit.NewBoundary(t, "docs-ci7", hierarchies...)
	var enter strings.Builder
	for _, hier := range hierarchies {
		enter.WriteString("echo $BASHPID >" + filepath.Join(kit.HostDir(hier, other), kit.Procs) + "\n")
	}
	ci7 := "(" + enter.String() + "exec unshare --mount --cgroup sleep 1000) &\nuntil grep -q sleep /proc/$!/comm; do sleep 0.1; done\n"
	out := paste(t, "vcgroupfs serve &\n"+ci7+docsBlock(t, "docs/operations.md", "vcgroupfs guest add web"),
		"/machines/web", path, "serve &", waited, "4242", "$!")
	if !strings.Contains(out, "\nci7 ") || !strings.Contains(out, "\nweb ") {
		t.Errorf("it printed:\n%s", out)
	}
	out = paste(t, "vcgroupfs serve &\n"+docsLine(t, "docs/operations.md", "curl --unix-socket")+"\n", "serve &", waited)
	if !strings.Contains(out, "{\"status\":\"ok\"}\n") {
		t.Errorf("the health is %q", out)
	}
}

// TestDocsUpgrade: a daemon that goes on with another program, by name and by path, and what looks for requests that hang.
func TestDocsUpgrade(t *testing.T) {
	path := kit.NewBoundary(t, "docs-upgrade", kit.NeedHierarchy(t, kit.OpenHost(t), "pids"))
	start := "mkdir -p /srv/bin /opt/vcgroupfs-2\ncp \"$(command -v vcgroupfs)\" /srv/bin/vcgroupfs\nexport PATH=/srv/bin:$PATH\ncd /srv\n" +
		"cp bin/vcgroupfs vcgroupfs.new\ncp bin/vcgroupfs opt/vcgroupfs-2\n"
	workers := "\nps -eo args | grep -c '^vcgroupfs serve-worker'\nreadlink \"/proc/$(pgrep -f 'vcgroupfs serve-worker')/exe\"\n"
	nothing := " || [ $? = 1 ]\n" // grep has found none
	out := paste(t, start+docsLine(t, "docs/operations.md", "vcgroupfs serve")+" &\n"+strings.TrimPrefix(waited, "serve &\n")+
		"\nvcgroupfs guest add w --boundary '"+path+"' --controllers pids\n"+
		"mountpoint -q /sys/fs/fuse/connections || mount -t fusectl fusectl /sys/fs/fuse/connections\n"+
		docsLine(t, "docs/operations.md", "grep -v")+nothing+docsLine(t, "docs/operations.md", "ps -eo")+nothing+
		docsLine(t, "docs/operations.md", "install -m 755 vcgroupfs.new")+"\nvcgroupfs serve --upgrade"+workers+docsLine(t, "docs/operations.md", "vcgroupfs serve --upgrade --program")+workers+
		"cat /run/vcgroupfs/serve/views/w/pids.current 2>/dev/null || cat /run/vcgroupfs/serve/views/w/pids/pids.current\nkill %1\nwait %1\n",
		"/usr/bin/", "/srv/bin/", "/opt/", "/srv/opt/")
	if !strings.Contains(out, "\n1\n/srv/bin/vcgroupfs\n") || !strings.Contains(out, "\n1\n/srv/opt/vcgroupfs-2/vcgroupfs\n") || !strings.Contains(out, "\n0\n") {
		t.Errorf("it printed:\n%s", out)
	}
}

// TestReadmeDoctor: doctor as the README calls it.
func TestReadmeDoctor(t *testing.T) {
	kit.OpenHost(t)
	if out := paste(t, docsLine(t, "README.md", "vcgroupfs doctor")+"\n"); !strings.Contains(out, "/dev/fuse: ") || !strings.Contains(out, "PROGRAM ") {
		t.Errorf("it printed:\n%s", out)
	}
}

// TestDocsPolicy: the tools for policies, and a guest with one.
func TestDocsPolicy(t *testing.T) {
	docsHost(t)
	out := paste(t, "cd /srv\n"+docsBlock(t, "docs/policy.md", "vcgroupfs policy default"), "run --policy policy.yaml -- sh", "run --policy policy.yaml -- ls /sys/fs/cgroup")
	if !strings.Contains(out, "memory.max") || !strings.Contains(out, "\npids\n") {
		t.Errorf("it printed:\n%s", out)
	}
}

// TestDocsNesting: a guest of a guest.
func TestDocsNesting(t *testing.T) {
	docsHost(t)
	lines := strings.Split(strings.TrimSpace(docsBlock(t, "docs/nesting.md", "vcgroupfs run --userns --privileged")), "\n")
	first, _, _ := strings.Cut(lines[0], "#")
	out := paste(t, first+" -ec '"+strings.Join(lines[1:], "\n")+"'", "run --limit pids.max=50 -- sh", "run --limit pids.max=50 -- cat /sys/fs/cgroup/pids/pids.max")
	if out != "50\n" {
		t.Errorf("it printed:\n%s", out)
	}
}

// TestReadmeDemo: the demo prints what the README shows, but for numbers.
func TestReadmeDemo(t *testing.T) {
	docsHost(t)
	shown := docsText(t, "README.md", "", "guest# ls")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join("..", ".ci", "demo.sh"))
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	number := regexp.MustCompile(`-?[0-9]+`)
	if got, want := number.ReplaceAllString(string(out), "N"), number.ReplaceAllString(shown, "N")+"\n"; got != want {
		t.Errorf("it printed:\n%s", out)
	}
}
