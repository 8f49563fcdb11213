package integration

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// playInto starts a program in the cgroup at a directory by clone3 with CLONE_INTO_CGROUP, for each line that it
// reads, and prints what came of it.
func playInto(dir string) {
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err == nil {
			cmd := exec.Command("true")
			cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: fd}
			err = cmd.Run()
			unix.Close(fd)
		}
		fmt.Println(err)
	}
}

// into has a process of a cgroup, "" for this one's, clone into a directory, and says what came of it.
func into(t *testing.T, hier *host.Hierarchy, cgroup, dir string) string {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), kit.RoleVariable+"=into "+dir)
	cmd.Stderr = os.Stderr
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if cgroup != "" {
		if err := hier.Attach(cgroup, cmd.Process.Pid); err != nil {
			t.Error(err)
		}
	}
	fmt.Fprintln(in)
	said, _ := bufio.NewReader(out).ReadString('\n')
	in.Close()
	cmd.Wait()
	return strings.TrimSpace(said)
}

// needBPFModule skips a test where BPF is not among the kernel's security modules.
func needBPFModule(t *testing.T) {
	t.Helper()
	kit.NeedType(t)
	dir := kit.PublicDir(t)
	if err := unix.Mount("none", dir, "securityfs", 0, ""); err != nil {
		t.Skip("machine: the kernel is built without CONFIG_SECURITYFS")
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	if all := kit.ReadFile(filepath.Join(dir, "lsm")); !strings.Contains(","+strings.TrimSpace(all)+",", ",bpf,") {
		t.Skipf("machine: bpf is not among the kernel's security modules: %s", all)
	}
}

// TestIntoCgroup: a guest's clone3 with CLONE_INTO_CGROUP answers ENOSYS, upon which programs do without; nobody
// else's does, nor any after the guest is gone.
func TestIntoCgroup(t *testing.T) {
	needBPFModule(t)
	hier := kit.NeedHierarchy(t, kit.OpenHost(t), "pids")
	if hier.Version != hierarchy.V2 {
		t.Skip("machine: CLONE_INTO_CGROUP knows cgroup2 alone, and this view has none")
	}
	const works, refused = "<nil>", "function not implemented"
	d := kit.StartDaemon(t)
	p := kit.NewPlace(t, d, "clone")
	d.WantTry(t, 0, "", p.Add("web")...)
	below := kit.NewBoundary(t, "clone/below", hier) // of nobody's
	for _, c := range []struct{ cgroup, dir, want string }{
		{p.Path, p.Dir, refused}, {p.Path, kit.HostDir(hier, p.Path), refused}, {"", kit.HostDir(hier, p.Path), works},
		{below, kit.HostDir(hier, below), works}, {"", p.Dir, "bad file descriptor"},
	} {
		if got := into(t, hier, c.cgroup, c.dir); !strings.HasSuffix(got, c.want) {
			t.Errorf("from %q into %s: %q, want %q", c.cgroup, c.dir, got, c.want)
		}
	}
	if err := hier.Create(p.Path+"/a/b", 0o755); err != nil {
		t.Fatal(err)
	}
	if got := into(t, hier, p.Path+"/a/b", p.Dir); !strings.HasSuffix(got, refused) {
		t.Errorf("from deeper down: %q", got)
	}
	d.Run(t, "guest", "rm", "web")
	if got := into(t, hier, p.Path, kit.HostDir(hier, p.Path)); got != works {
		t.Errorf("when the guest is gone: %q", got)
	}
	d.Stop(t)

	off := kit.StartDaemonWith(t, kit.Program(t), []string{"--no-bpf"})
	q := kit.NewPlace(t, off, "clone-off")
	off.WantTry(t, 0, "", q.Add("web")...)
	if got := into(t, hier, q.Path, q.Dir); !strings.HasSuffix(got, "bad file descriptor") {
		t.Errorf("switched off: %q", got)
	}
}
