package integration

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// usernsGuest is a guest of "run --userns" that is running.
type usernsGuest struct {
	*kit.Helper
	first int // its first process
	root  int // the host's id of its root
}

// startUserns starts one, whose command prints a line when it has begun.
func startUserns(t *testing.T, command ...string) usernsGuest {
	t.Helper()
	return startUsernsCommand(t, exec.Command(kit.Program(t), append([]string{"run", "--userns", "--controllers", "pids", "--"}, command...)...))
}

func startUsernsCommand(t *testing.T, cmd *exec.Cmd) usernsGuest {
	t.Helper()
	var errs bytes.Buffer
	cmd.Stderr = &errs
	g := usernsGuest{Helper: kit.StartProcess(t, cmd)}
	if line, err := g.Out.ReadString('\n'); line != "ready\n" {
		t.Fatalf("the guest says %q, %v, %s", line, err, errs.String())
	}
	g.first = kit.ChildOf(t, cmd.Process.Pid)
	g.root = kit.RootOf(t, g.first)
	users, groups := kit.ReadFile(fmt.Sprintf("/proc/%d/uid_map", g.first)), kit.ReadFile(fmt.Sprintf("/proc/%d/gid_map", g.first))
	if users != groups {
		t.Errorf("users %q, groups %q", users, groups)
	}
	return g
}

// end ends its command.
func (g usernsGuest) end(t *testing.T) {
	t.Helper()
	g.In.Close()
	if err := g.Cmd.Wait(); err != nil {
		t.Errorf("the guest ended with %v", err)
	}
}

var waits = []string{"sh", "-c", "echo ready; read x; true"}

// TestRunIDs: to the kernel the roots of two guests are two users, and neither is the host's root. What is refused to
// one of the other's is what is refused to any user of another's, and what the user of the same ids may, natively.
func TestRunIDs(t *testing.T) {
	kit.NeedHierarchy(t, kit.OpenHost(t), "pids")
	dir := kit.PublicDir(t)
	if err := os.Chmod(dir, 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	secret := filepath.Join(dir, "secret")
	t.Cleanup(func() { os.Remove(secret) })
	a := startUserns(t, "sh", "-c", "echo text >"+secret+"; chmod 600 "+secret+"; echo ready; read x; true")
	b := startUserns(t, "sh", "-c", `
echo ready; read x
for what in "cat $0" "chmod 644 $0" "rm -f $0"; do $what 2>&1; done
stat -c "%u:%g" /dev /dev/null /sys/fs/cgroup $0`, secret)
	if apart := b.root - a.root; apart < 65536 && apart > -65536 {
		t.Fatalf("the guests' ids begin at %d and %d", a.root, b.root)
	}
	for _, c := range []struct {
		user         int
		signal, open string
	}{{a.root, "ok", "ok"}, {b.root, "EPERM", "EACCES"}} {
		kit.AsUser(c.user, func() {
			if got := kit.Word(unix.Kill(a.first, 0)); got != c.signal {
				t.Errorf("user %d signals the root of %d: %s, want %s", c.user, a.root, got, c.signal)
			}
			fd, err := unix.Open(secret, unix.O_RDONLY, 0)
			unix.Close(fd)
			if got := kit.Word(err); got != c.open {
				t.Errorf("user %d opens what is for the root of %d: %s, want %s", c.user, a.root, got, c.open)
			}
		})
	}
	io.WriteString(b.In, "\n")
	out, _ := io.ReadAll(b.Out)
	got := string(out)
	for what, want := range map[string]int{"Permission denied": 1, "not permitted": 2, "0:0\n": 3, "65534:65534\n": 1, "text": 0} {
		if n := strings.Count(got, what); n != want {
			t.Errorf("of the other guest's file, and its own: %q %d times, want %d:\n%s", what, n, want, got)
		}
	}
	b.end(t)
	a.end(t)
	if kit.IsHeld(a.root) || kit.IsHeld(b.root) {
		t.Error("the ids of guests that have ended are not free")
	}
	if c := startUserns(t, waits...); c.root != min(a.root, b.root) {
		t.Errorf("the next guest's ids begin at %d, not at %d", c.root, min(a.root, b.root))
	}
}

// TestRunIDsCounted: what the kernel counts by user is counted for each guest. Natively a user's share that a guest
// has used up is.
func TestRunIDsCounted(t *testing.T) {
	kit.NeedHierarchy(t, kit.OpenHost(t), "pids")
	binary := kit.PublicProgram(t)
	soft, err := strconv.Atoi(strings.TrimSpace(kit.ReadFile("/proc/sys/fs/pipe-user-pages-soft")))
	if err != nil || soft == 0 || soft > 32768 {
		t.Skip("machine: pipe-user-pages-soft bounds no pipes that can be made here")
	}
	env := append(os.Environ(), kit.RoleVariable+"=pipes")
	pipes := func(cmd *exec.Cmd) (n int) {
		cmd.Env = env
		fmt.Sscan(kit.StartProcess(t, cmd).Line(t), &n)
		return n
	}
	run := []string{"run", "--userns", "--controllers", "pids", "--", binary}
	first := exec.Command(kit.Program(t), run...)
	made := pipes(first)
	if made < soft/16-2 {
		t.Skipf("machine: RLIMIT_NOFILE allows %d pipes", made)
	}
	same := exec.Command(binary)
	root := uint32(kit.RootOf(t, kit.ChildOf(t, first.Process.Pid)))
	same.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: root, Gid: root}}
	if got := pipes(same); got > 1 {
		t.Errorf("a process of the same user makes %d pipes as large as if there were no others", got)
	}
	if got := pipes(exec.Command(kit.Program(t), run...)); got < made-1 {
		t.Errorf("beside a guest with %d pipes another guest makes %d as large", made, got)
	}
}

// playPipes makes pipes until they are made smaller, and prints how many that were not.
func playPipes(string) {
	n := 0
	for ; ; n++ {
		var p [2]int
		if unix.Pipe2(p[:], 0) != nil {
			break
		}
		if size, _ := unix.FcntlInt(uintptr(p[0]), unix.F_GETPIPE_SZ, 0); size < 16*os.Getpagesize() {
			break
		}
	}
	fmt.Println(n)
	io.Copy(io.Discard, os.Stdin)
}

// TestRunIDsMany: guests that start at once get ranges apart, all of which are free afterwards.
func TestRunIDsMany(t *testing.T) {
	kit.NeedHierarchy(t, kit.OpenHost(t), "pids")
	many := kit.Scaled(t, 20, 5)
	var guests []*kit.Helper
	for range many {
		run := exec.Command(kit.Program(t), "run", "--userns", "--controllers", "pids", "--",
			"sh", "-c", "echo $(cat /proc/self/uid_map /proc/self/gid_map); read x; true")
		run.Stderr = os.Stderr
		guests = append(guests, kit.StartProcess(t, run))
	}
	begin := map[int]bool{}
	for _, g := range guests {
		var u, g0 [3]int
		line := g.Line(t)
		n, _ := fmt.Sscan(line, &u[0], &u[1], &u[2], &g0[0], &g0[1], &g0[2])
		if n != 6 || u != g0 || u[0] != 0 || u[1] < 65536 || u[1]%65536 != 0 || u[2] != 65536 || begin[u[1]] {
			t.Errorf("a guest has the ids %q, others those from %v on", line, begin)
		}
		begin[u[1]] = true
	}
	for _, g := range guests {
		g.In.Close()
		if err := g.Cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
	for root := range begin {
		if kit.IsHeld(root) {
			t.Errorf("the ids from %d on are not free", root)
		}
	}
}

// TestRunIDsKilled: the ids of a guest whose "run" was killed are not free before the guest is gone, even if it has
// changed its ids, upon which the kernel does not end it.
func TestRunIDsKilled(t *testing.T) {
	h := kit.OpenHost(t)
	hier := kit.NeedHierarchy(t, h, "pids")
	binary := kit.PublicProgram(t)
	name := "ids-" + strconv.Itoa(os.Getpid())
	cmd := exec.Command(kit.Program(t), "run", "--userns", "--name", name, "--controllers", "pids", "--", binary)
	cmd.Env = append(os.Environ(), kit.RoleVariable+"=other-ids")
	a := startUsernsCommand(t, cmd)
	guard := guardOf(t, cmd.Process.Pid)
	if err := unix.Kill(guard, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer unix.Kill(guard, unix.SIGCONT)
	cmd.Process.Kill()
	cmd.Process.Wait() // not for what the guest writes, which goes on
	if !kit.IsHeld(a.root) {
		t.Error("the ids of a guest whose server was killed are free before it has ended")
	}
	if in, err := hier.ReadFile("/vcgroupfs/"+name, kit.Procs); err != nil || in == "" {
		t.Fatalf("the guest has ended before its guard could end it: %q, %v", in, err)
	}
	// What the next "run" does about killed ones would end this guest, too.
	lease := "/run/vcgroupfs/guests/" + name + ".json"
	if err := os.Rename(lease, lease+".kept"); err != nil {
		t.Fatal(err)
	}
	b := startUserns(t, waits...)
	if b.root == a.root {
		t.Errorf("both have the ids from %d on", b.root)
	}
	if err := os.Rename(lease+".kept", lease); err != nil {
		t.Fatal(err)
	}
	unix.Kill(guard, unix.SIGCONT)
	kit.Eventually(t, "the ids to be free", func() bool { return !kit.IsHeld(a.root) })
	if in, err := hier.ReadFile("/vcgroupfs/"+name, kit.Procs); err != nil || in != "" {
		t.Errorf("the ids are free, and in the guest are %q, %v", in, err)
	}
	b.end(t)
	if c := startUserns(t, waits...); c.root != min(a.root, b.root) {
		t.Errorf("the next guest's ids begin at %d, not at %d", c.root, min(a.root, b.root))
	}
	kit.WantGone(t, h, name)
}

// playOtherIDs is a guest's first process that has changed its ids.
func playOtherIDs(string) {
	if err := syscall.Setresuid(1000, 1000, 1000); err != nil {
		fmt.Println(err)
	}
	fmt.Println("ready")
	for {
		time.Sleep(time.Hour)
	}
}

// guardOf is the guard that "run" has started for its guest.
func guardOf(t *testing.T, run int) (guard int) {
	t.Helper()
	parent := fmt.Sprintf("\nPPid:\t%d\n", run)
	kit.Eventually(t, fmt.Sprintf("a guard of process %d", run), func() bool {
		all, _ := filepath.Glob("/proc/[0-9]*/status")
		i := slices.IndexFunc(all, func(f string) bool {
			return strings.Contains(kit.ReadFile(f), parent) &&
				kit.ReadFile(filepath.Dir(f)+"/cmdline") == "vcgroupfs\x00guest-guard\x00"
		})
		if i < 0 {
			return false
		}
		guard, _ = strconv.Atoi(filepath.Base(filepath.Dir(all[i])))
		return true
	})
	return guard
}

// TestRunIDsOfOthers: a guest gets no id of users, of lines of /etc/subuid and /etc/subgid, or of other containers; a
// line for vcgroupfs gives it its ids. Where none can be had it does not begin.
func TestRunIDsOfOthers(t *testing.T) {
	kit.NeedHierarchy(t, kit.OpenHost(t), "pids")
	// With other files in /etc.
	within := func(files map[string]string, before string, command ...string) *exec.Cmd {
		script := before + "\nmount -t tmpfs tmpfs /etc || exit 1\n"
		for name, text := range files {
			script += fmt.Sprintf("printf '%%s\\n' %s >/etc/%s\n", text, name)
		}
		args := append([]string{"--mount", "sh", "-c", script + `exec "$@"`, "sh", kit.Program(t), "run", "--userns", "--controllers", "pids", "--"}, command...)
		return exec.Command("unshare", args...)
	}
	usual := startUsernsCommand(t, within(nil, "", waits...))
	usual.end(t)
	next := usual.root + 65536
	for _, c := range []struct {
		files map[string]string
		want  int
	}{
		{map[string]string{"subuid": fmt.Sprintf("alice:%d:65536", usual.root)}, next},
		{map[string]string{"subgid": fmt.Sprintf("root:%d:1", usual.root+65535)}, next},
		{map[string]string{"passwd": fmt.Sprintf("x:x:%d:0::/:/bin/sh", usual.root+1)}, next},
		{map[string]string{"subuid": "vcgroupfs:300000000:65536", "subgid": "vcgroupfs:300000000:65536"}, 300000000},
	} {
		g := startUsernsCommand(t, within(c.files, "", waits...))
		if g.root != c.want {
			t.Errorf("%v: the ids begin at %d, want %d", c.files, g.root, c.want)
		}
		if len(c.files) == 2 {
			refusedIDs(t, within(c.files, "", "true"), "all 1 ranges are taken, by running guests")
		}
		g.end(t)
	}
	refusedIDs(t, within(map[string]string{"subuid": "alice:1:4294967294"}, "", "true"), "all 28664 ranges are taken")
	refusedIDs(t, within(map[string]string{"subuid": "vcgroupfs:300000000:65536"}, "", "true"), "in both /etc/subuid and /etc/subgid")
	refusedIDs(t, within(nil, "mount -t tmpfs -o ro tmpfs /run", "true"), "cannot note the guest's ids: mkdir /run/vcgroupfs: read-only file system")

	other := exec.Command("sleep", "1000")
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: usual.root, Size: 1000000}}
	other.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids}
	kit.StartProcess(t, other)
	if g := startUserns(t, waits...); g.root < usual.root+1000000 {
		t.Errorf("beside a container with a million ids from %d on a guest has those from %d on", usual.root, g.root)
	}
}

func refusedIDs(t *testing.T, cmd *exec.Cmd, says string) {
	t.Helper()
	out, _ := cmd.CombinedOutput()
	if status := cmd.ProcessState.ExitCode(); status != 125 || !strings.Contains(string(out), says) {
		t.Errorf("%v: status %d, %q, want 125 and %q", cmd.Args, status, out, says)
	}
}

// TestNestedIDs: the guests of a guest have ranges apart as long as there are any, of which the first is as large as
// can be.
func TestNestedIDs(t *testing.T) {
	kit.NeedHierarchy(t, kit.OpenHost(t), "pids")
	n := kit.NewNest(t)
	x := kit.StartProcess(t, n.Run("many "+n.Dir, "--userns", "--privileged", "--controllers", "pids"))
	for _, want := range []string{"0 32768 32768", "0 16384 16384", "0 8192 8192", "0 4096 4096", "0 2048 2048", "0 1024 1024"} {
		if got := x.Line(t); got != want {
			t.Errorf("a guest of the guest has the ids %q, want %q", got, want)
		}
	}
	if got := x.Line(t); !strings.HasSuffix(got, "running guests or other containers have all 6 ranges; end one") {
		t.Errorf("one more says %q", got)
	}
	x.In.Close()
	if err := x.Cmd.Wait(); err != nil {
		t.Errorf("the guest ended with %v", err)
	}
}

// playMany is a guest that starts guests until one does not begin, and prints of each its ids, of the last what it
// says.
func playMany(dir string) {
	err := kit.Furnish(dir)
	for more := err == nil; more; {
		cmd := exec.Command(filepath.Join(dir, "vcgroupfs"), "run", "--userns", "--controllers", "pids", "--",
			"sh", "-c", "echo $(cat /proc/self/uid_map); read x; true")
		var errs bytes.Buffer
		cmd.Stderr = &errs
		in, err1 := cmd.StdinPipe()
		out, err2 := cmd.StdoutPipe()
		if err1 != nil || err2 != nil || cmd.Start() != nil {
			break
		}
		line, _ := bufio.NewReader(out).ReadString('\n')
		if more = line != ""; !more {
			cmd.Wait()
			line = errs.String()
		}
		fmt.Print(line)
		defer cmd.Wait()
		defer in.Close()
	}
	if err != nil {
		fmt.Println(err)
	}
	io.Copy(io.Discard, os.Stdin)
}
