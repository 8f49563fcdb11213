package integration

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// The ids that own the directories of the tests: a user and two groups of the guest, and root of run --userns as the host has it.
const (
	rightsUser  = 1000
	rightsOther = 1001
	rightsGroup = 1005
	rightsBase  = 524288
)

// TestNotifyRights: whoever a guest's process is, mount and statfs reach what they reach when the kernel answers. What lies in a directory
// that the caller may not search is told by no errno: it is EACCES, and mounts nothing.
func TestNotifyRights(t *testing.T) {
	h := kit.OpenHost(t)
	binary, dir := kit.PublicProgram(t), kit.PublicDir(t)
	makeHidden(t, dir)
	for _, form := range [][]string{{"--userns", "--privileged"}, {"--privileged"}} {
		t.Run(kit.FormName(form), func(t *testing.T) {
			args := append(form, "--controllers", kit.AllControllers(h))
			role := "notify-nested mc notify-rights " + dir
			native := kit.RunRole(t, binary, role, append(args, "--no-notify")...)
			got := kit.RunRole(t, binary, role, args...)
			if len(got) != len(native) || len(got) < 100 {
				t.Fatalf("%d results, natively %d", len(got), len(native))
			}
			hidden, reached := 0, 0
			for i := range native {
				name, result, _ := strings.Cut(got[i], ": ")
				statfs, mount, mounts := strings.Cut(result, ", ")
				want := strings.Replace(native[i], "mount ok cgroup2", "mount ok view", 1)
				if strings.HasPrefix(mount, "mount ok fuse.cgroup") {
					reached++
					mount = "mount ok view"
				}
				if strings.Contains(name, "/sticky/link") && mount == "mount ok cgroup2" {
					mount = "mount ok view" // fs.protected_symlinks is 0, and the call was passed on
				}
				if now := strings.TrimSuffix(name+": "+statfs+", "+mount, ", "); now != want {
					t.Errorf("%q, natively %q", now, want)
				}
				user := strings.HasPrefix(name, "user") || strings.HasPrefix(name, "other")
				if strings.Contains(name, "hidden/") && (user || form[0] == "--userns") { // whose root is not the host's
					hidden++
					if statfs != "statfs EACCES" || mounts && mount != "mount EACCES" {
						t.Errorf("%s", got[i])
					}
				}
			}
			if hidden < 20 || reached < 100 {
				t.Errorf("%d paths were hidden, %d mounted at", hidden, reached)
			}
			t.Logf("%d results; %d hidden, %d mounted at", len(native), hidden, reached)
		})
	}
}

// makeHidden fills a directory: what root of the host hides, what it has given to a user of the guest's range, and what it has given to
// the user, but not to a group of the range.
func makeHidden(t *testing.T, dir string) {
	t.Helper()
	for _, d := range []struct {
		name     string
		uid, gid int
	}{{"hidden", 0, 0}, {"given", rightsBase + rightsUser, rightsBase + rightsUser}, {"mixed", rightsBase + rightsUser, 0}} {
		at := filepath.Join(dir, d.name)
		t.Cleanup(func() {
			if err := os.RemoveAll(at); err != nil {
				t.Error(err)
			}
		})
		err := errors.Join(os.Mkdir(at, 0o700), fillDir(at), os.Chown(at, d.uid, d.gid))
		if err != nil {
			t.Fatal(err)
		}
	}
	own := filepath.Join(dir, "own")
	t.Cleanup(func() {
		if err := os.Remove(own); err != nil {
			t.Error(err)
		}
	})
	if err := os.Mkdir(own, 0o755); err != nil {
		t.Fatal(err)
	}
}

// fillDir puts into a directory what a path can lead to.
func fillDir(dir string) error {
	return errors.Join(
		os.Mkdir(filepath.Join(dir, "at"), 0o755), os.WriteFile(filepath.Join(dir, "file"), nil, 0o644), os.Symlink("loop", filepath.Join(dir, "loop")),
		os.Symlink("at", filepath.Join(dir, "link")), os.Symlink(filepath.Join(dir, "at"), filepath.Join(dir, "abs")),
		os.Symlink("/proc/self/fd/0", filepath.Join(dir, "magic")),
	)
}

// rightsNames are what is tried in each directory of fillDir, the first few of them by every caller.
var rightsNames = []string{
	"at", "none", "file", "abs", "at/", "at/.", "file/", "none/x", "loop", "link", "link/", "abs/../at", "at/../at", "at/../none", "magic", ".",
}

const rightsFew = 4

// playRights tries them as several callers, and prints what came of each.
func playRights(dir string) error {
	err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	if err == nil {
		err = unix.Chdir(dir)
	}
	if err == nil {
		err = unix.Mount("tmpfs", "own", "tmpfs", 0, "mode=755")
	}
	for _, d := range []struct {
		name     string
		uid, gid int
		mode     uint32
	}{
		{"user", rightsUser, rightsUser, 0o700}, {"user/inner", rightsOther, rightsOther, 0o700}, {"group", rightsOther, rightsGroup, 0o710},
		{"owner", rightsUser, rightsOther, 0o077}, {"public", 0, 0, 0o755}, {"user/sticky", 0, 0, 0o1777},
	} {
		at := filepath.Join(dir, "own", d.name)
		err = errors.Join(err, unix.Mkdir(at, 0o700), fillDir(at), unix.Lchown(at+"/link", rightsOther, rightsOther),
			unix.Chown(at, d.uid, d.gid), unix.Chmod(at, d.mode))
	}
	if err != nil {
		return fmt.Errorf("make directories: %w", err)
	}
	here, err := unix.Open(".", unix.O_PATH, 0)
	if err != nil {
		return err
	}
	for _, c := range rightsCallers {
		done := make(chan error)
		go func() {
			runtime.LockOSThread() // its rights end with it
			err := c.become()
			if err == nil {
				tryRights(c.name, dir, here)
			}
			done <- err
		}()
		if err := <-done; err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}
	return nil
}

// rightsCallers may all mount. Those after the first search no directory by a capability.
var rightsCallers = []struct {
	name   string
	become func() error
}{
	{"root", func() error { return nil }},
	{"no DAC", dropDAC},
	{"group", func() error { return errors.Join(unix.Setgroups([]int{rightsGroup}), dropDAC()) }},
	{"user", func() error { return becomeFS(rightsUser, rightsUser) }},
	{"user, other group", func() error { return becomeFS(rightsUser, rightsOther) }},
	{"other", func() error { return becomeFS(rightsOther, rightsOther) }},
}

// becomeFS changes the ids that files are judged by: no user of the guest's has CAP_SYS_ADMIN otherwise.
func becomeFS(uid, gid int) error {
	return errors.Join(unix.Setgroups(nil), unix.Setfsgid(gid), unix.Setfsuid(uid))
}

// dropDAC takes the capabilities by which any directory is searched from the thread.
func dropDAC() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return err
	}
	data[0].Effective &^= 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_DAC_READ_SEARCH
	return unix.Capset(&header, &data[0])
}

// tryRights asks what file system is at each path, and mounts there.
func tryRights(caller, dir string, here int) {
	print := func(path string, results ...string) {
		fmt.Printf("%s %s: %s\n", caller, strings.ReplaceAll(path, dir, "DIR"), strings.Join(results, ", "))
	}
	statfs := func(path string) string { return "statfs " + kit.Word(unix.Statfs(path, &unix.Statfs_t{})) }
	try := func(path string) { print(path, statfs(path), "mount "+mountHere(path)) }
	for _, d := range []string{
		"hidden", "given", "mixed", "own/user", "own/user/inner", "own/user/sticky", "own/group", "own/owner", "own/public",
	} {
		for i, name := range rightsNames {
			if caller == "root" || i < rightsFew {
				try(filepath.Join(dir, d) + "/" + name)
			}
		}
		for _, name := range rightsNames[:rightsFew] {
			if caller == "root" {
				try(d + "/" + name)
				try(fmt.Sprintf("/proc/self/fd/%d/%s/%s", here, d, name))
				try("/proc/thread-self/cwd/" + d + "/" + name)
			}
			// What is there leads back to the view.
			path := filepath.Join(dir, d) + "/" + name + strings.Repeat("/..", 20) + kit.GuestView
			print(path, statfs(path))
		}
	}
}

// mountHere mounts cgroup2 for a moment, and tells the type that the mount table has it by.
func mountHere(path string) string {
	if err := unix.Mount("none", path, "cgroup2", 0, ""); err != nil {
		return kit.Word(err)
	}
	lines := strings.Split(strings.TrimSpace(kit.ReadFile("/proc/thread-self/mountinfo")), "\n")
	_, of, _ := strings.Cut(lines[len(lines)-1], " - ")
	kind, _, _ := strings.Cut(of, " ")
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
		return "umount " + kit.Word(err)
	}
	return "ok " + kind
}
