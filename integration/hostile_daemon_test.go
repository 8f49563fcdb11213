package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// keptAttempts are what a guest of the daemon tries with descriptors that it opened before the worker was replaced: each has
// the authority that it had, and no more.
func keptAttempts(wanted bool, stranger string) (list []attempt) {
	if !wanted {
		return nil
	}
	open := func(path string, flags int) int {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
		if err != nil {
			return -1
		}
		return fd
	}
	for _, t := range guestTargets() {
		reading := open(t.path, unix.O_RDONLY)
		list = append(list,
			attempt{t.path + ": a kept reading descriptor is written", "EBADF", func() error { return kit.WriteFD(t.value)(reading) }},
			attempt{t.path + ": a kept reading descriptor is read", "", func() error {
				_, err := unix.Pread(reading, make([]byte, 64), 0)
				return err
			}},
			attempt{t.path + ": a kept reading descriptor is opened anew for writing", "EPERM", func() error {
				return kit.WithFile("/proc/self/fd/"+strconv.Itoa(reading), unix.O_WRONLY, kit.WriteFD(t.value))
			}})
	}
	for _, root := range guestDirs() {
		gone, stays := filepath.Join(root, "kept-gone"), filepath.Join(root, "kept-evil")
		unix.Mkdir(gone, 0o755)
		unix.Mkdir(stays, 0o755)
		goneProcs, members := open(filepath.Join(gone, kit.Procs), unix.O_RDWR), open(filepath.Join(stays, kit.Procs), unix.O_WRONLY)
		dir := open(stays, unix.O_RDONLY|unix.O_DIRECTORY)
		unix.Rmdir(gone)
		list = append(list,
			attempt{gone + ": a kept descriptor of a removed cgroup is written", "ENODEV", func() error { return kit.WriteFD("0")(goneProcs) }},
			attempt{gone + ": a kept descriptor of a removed cgroup is read", "ENODEV", func() error {
				_, err := unix.Pread(goneProcs, make([]byte, 64), 0)
				return err
			}},
			attempt{stays + ": a stranger is moved by a kept descriptor", "ESRCH|ENOENT", func() error { return kit.WriteFD(stranger)(members) }},
			attempt{stays + ": the host's first process is moved by a kept descriptor", "ESRCH|ENOENT", func() error { return kit.WriteFD("999999")(members) }},
			attempt{stays + ": a kept directory leads above the boundary", "ENOENT", func() error {
				fd, err := unix.Openat(dir, "../../"+kit.Procs, unix.O_RDONLY|unix.O_NOFOLLOW, 0)
				if err == nil { // the mount's parent directory may have anything, but no membership file of the host
					unix.Close(fd)
				}
				return err
			}},
			attempt{stays + ": rmdir, evil", "", func() error { return unix.Rmdir(stays) }})
	}
	return list
}

// hostileGuest starts the suite of attempts as the root of a guest: in the boundary, in mount and pid namespaces of its own,
// with the view at /sys/fs/cgroup and every capability; with userns over a user namespace, otherwise over the host.
func hostileGuest(t *testing.T, h *host.Host, path, view, binary string, userns bool, stranger int) *kit.Helper {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-c", `read -r _ && mount --make-rprivate / && mount --bind "$1" /sys/fs/cgroup && mount -t proc proc /proc && exec "$2"`,
		"sh", view, binary)
	cmd.Stderr = os.Stderr
	form := "privileged"
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID}
	if userns {
		form = "userns"
		ids := []syscall.SysProcIDMap{{HostID: kit.GuestID, Size: 65536}}
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings, cmd.SysProcAttr.GidMappings = ids, ids
		cmd.SysProcAttr.Credential = &syscall.Credential{}
	}
	cmd.Env = append(os.Environ(), kit.RoleVariable+"=hostile daemon-"+form+" "+strconv.Itoa(stranger))
	helper := kit.StartProcess(t, cmd)
	for _, hier := range h.Hierarchies() {
		if err := hier.Attach(path, helper.Cmd.Process.Pid); err != nil {
			t.Fatal(err)
		}
	}
	helper.In.Write([]byte("begin\n"))
	return helper
}

// TestHostileDaemon: the hostile guest against the daemon, whose worker is killed again and again between its attempts.
func TestHostileDaemon(t *testing.T) {
	binary := kit.PublicProgram(t)
	t.Run("privileged", func(t *testing.T) { testHostileDaemon(t, binary, false) })
	t.Run("userns", func(t *testing.T) { testHostileDaemon(t, binary, true) })
}

func testHostileDaemon(t *testing.T, binary string, userns bool) {
	h := kit.OpenHost(t)
	parent := kit.NewBoundary(t, "hostile", h.Hierarchies()...) // whose state is the test's alone to change, which the root's is not
	path := parent + "/guest"
	for _, hier := range h.Hierarchies() {
		if err := hier.Create(path, 0o755); err != nil {
			t.Fatal(err)
		}
		if hier.Version == hierarchy.V2 {
			if err := hier.Enable(path, hier.Controllers...); err != nil {
				t.Fatal(err)
			}
		}
	}
	d := kit.StartDaemon(t)
	dir := kit.PublicDir(t)
	t.Cleanup(func() { d.Stop(t) })
	d.Mounts[dir] = true
	policy := filepath.Join(d.Dir, "policy.yaml")
	if err := os.WriteFile(policy, []byte(hostilePolicy), 0o644); err != nil {
		t.Fatal(err)
	}
	args := []string{"guest", "add", "hostile", "--boundary", path, "--policy", policy, "--target", dir}
	if userns {
		args = append(args, "--owner", fmt.Sprintf("%d:%d", kit.GuestID, kit.GuestID))
	}
	d.Run(t, append(args, guestLimits(h)...)...)
	stranger := kit.StartStranger(t)
	guest := hostileGuest(t, h, path, dir, binary, userns, stranger)
	var dirs []string
	for _, hier := range h.Hierarchies() {
		if hier.Holds("memory") || hier.Holds("pids") {
			dirs = append(dirs, kit.HostDir(hier, path), kit.HostDir(hier, parent))
		}
	}
	last := 0
	n := judgeHostile(t, guest, dirs, "", func(n int) {
		if n%25 == 0 {
			if pid := d.Signal(t, unix.SIGKILL, last); pid != 0 {
				last = pid
			}
		}
	})
	if err := guest.Cmd.Wait(); err != nil {
		t.Errorf("the guest ended with %v", err)
	}
	info := d.Ready(t)
	if n < 60 || info.Restarts < uint64(n/50) {
		t.Errorf("%d attempts, %d restarts", n, info.Restarts)
	}
	if said := kit.ReadFile(d.Stderr.Name()); !strings.Contains(said, "rule=cgroups") || !strings.Contains(said, "rule=depth") {
		t.Error("the bounds of the guest's quota that were reached are not told apart")
	}
	t.Logf("%d attempts, %d restarts", n, info.Restarts)
	d.Stop(t)
}

// TestHostileSocket: a guest's root finds the control socket and asks for what it wants. It is refused everything, in
// namespaces of its own as well as from inside the boundary in the host's.
func TestHostileSocket(t *testing.T) {
	h := kit.OpenHost(t)
	hier := kit.NeedHierarchy(t, h, "pids")
	path := kit.NewBoundary(t, "socket", hier)
	d := kit.StartDaemon(t)
	dir := kit.PublicDir(t)
	t.Cleanup(func() { d.Stop(t) })
	d.Mounts[dir] = true
	d.Run(t, "guest", "add", "g", "--boundary", path, "--controllers", "pids", "--target", dir, "--limit", "pids.max=40")
	for _, c := range []struct {
		name   string
		flags  uintptr
		inside bool
	}{
		{"in a pid namespace", unix.CLONE_NEWPID | unix.CLONE_NEWNS, true},
		{"in a cgroup namespace", unix.CLONE_NEWCGROUP, false},
		{"in the boundary", 0, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, ask := range [][]string{
				{"guest", "ls"}, {"guest", "set", "g", "pids.max=max"}, {"guest", "rm", "g"}, {"guest", "add", "x", "--boundary", path, "--target", dir + "x"},
				{"serve", "--upgrade", "--program", "/bin/true"},
			} {
				cmd := exec.Command("/bin/sh", append([]string{"-c", `read -r _; exec "$@"`, "sh", kit.Program(t)}, append(ask, "--socket", d.Socket)...)...)
				cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: c.flags}
				var out strings.Builder
				cmd.Stdout, cmd.Stderr = &out, &out
				in, err := cmd.StdinPipe()
				if err == nil {
					err = cmd.Start()
				}
				if err != nil {
					t.Fatal(err)
				}
				if c.inside {
					if err := hier.Attach(path, cmd.Process.Pid); err != nil {
						t.Error(err)
					}
				}
				in.Write([]byte("begin\n"))
				in.Close()
				if err := cmd.Wait(); err == nil || !strings.Contains(out.String(), "is for the host") {
					t.Errorf("%v: %v, %s", ask, err, out.String())
				}
			}
		})
	}
	if got, err := hier.ReadFile(path, "pids.max"); got != "40\n" || err != nil {
		t.Errorf("pids.max is %q, %v", got, err)
	}
	if info := d.Ready(t); info.Guests != 1 || info.Restarts != 0 {
		t.Errorf("%+v", info)
	}
	d.Stop(t)
}

// TestAudit: a guest that is denied a thousand things a second is told of some of them, with who it was and what, and the rest
// is counted; what it put into names cannot forge a line.
func TestAudit(t *testing.T) {
	h := kit.OpenHost(t)
	s := kit.NewSite(t, h, "audit")
	d := kit.StartDaemon(t)
	s = d.Add(t, "g", s)
	stranger := kit.StartSleeper(t)
	began := time.Now()
	if got := kit.ErrnoName(kit.WithFile(s.At(kit.Procs), unix.O_WRONLY, kit.WriteFD(strconv.Itoa(stranger)))); got != "ESRCH" && got != "ENOENT" {
		t.Errorf("moving a stranger: %q", got)
	}
	d.WantLog(t, `rule="outside the boundary"`) // on the stranger
	for range 3000 {
		kit.WithFile(s.At("pids.max"), unix.O_WRONLY, kit.WriteFD("max"))
	}
	for _, name := range []string{"cgroup.evil\x1b[2J", "tasks"} {
		unix.Mkdir(s.At(name), 0o755)
	}
	d.WantLog(t, "msg=dropped")
	raw, err := os.ReadFile(d.Stderr.Name())
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(raw), "\n")
	atMost := 20 + int(10*time.Since(began).Seconds()) // 20 at once, then 10 a second
	denied, dropped := 0, 0
	for _, line := range lines {
		switch {
		case strings.Contains(line, "msg=denied"):
			denied++
			for _, field := range []string{"guest=g", "operation=", "path=", "rule=", "uid=0", "pid="} {
				if !strings.Contains(line, field) {
					t.Fatalf("no %s in %q", field, line)
				}
			}
		case strings.Contains(line, "msg=dropped"):
			dropped++
		}
		if strings.ContainsRune(line, '\x1b') {
			t.Errorf("the guest's bytes are in the log: %q", line)
		}
	}
	if denied < 10 || denied > atMost || dropped == 0 {
		t.Errorf("%d denials told, want at most %d, %d counts of others", denied, atMost, dropped)
	}
	time.Sleep(10 * time.Millisecond)
	d.Stop(t)
}
