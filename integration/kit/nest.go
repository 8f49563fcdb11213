package kit

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// Nest is a guest that is the host of others: a directory that all of them see, with the programs, and a device node
// that anybody may open, for containers (of the host's own, its owner decides).
type Nest struct {
	Dir, Program, tests string
}

// NewNest makes one.
func NewNest(t *testing.T) Nest {
	t.Helper()
	n := Nest{Dir: PublicDir(t)}
	n.Program, n.tests = filepath.Join(n.Dir, "vcgroupfs"), filepath.Join(n.Dir, "integration.test")
	CopyProgram(t, AbsProgram(t), n.Program)
	CopyProgram(t, "/proc/self/exe", n.tests)
	device := filepath.Join(n.Dir, "fuse")
	t.Cleanup(func() { os.Remove(device) })
	var st unix.Stat_t
	err := unix.Stat("/dev/fuse", &st)
	if err == nil {
		err = unix.Mknod(device, unix.S_IFCHR|0o666, int(st.Rdev))
	}
	if err == nil {
		err = unix.Chmod(device, 0o666)
	}
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// Run is the command of a guest in which the tests' binary plays a role, a guest of its host, which may be a guest
// itself.
func (n Nest) Run(role string, args ...string) *exec.Cmd {
	cmd := exec.Command(n.Program, append(append([]string{"run"}, args...), "--", n.tests)...)
	cmd.Env = append(os.Environ(), RoleVariable+"="+role)
	cmd.Stderr = os.Stderr
	return cmd
}

// Role is that of a guest that becomes the host of another (playNest), which has the role next.
func (n Nest) Role(next string, args ...string) string {
	text, _ := json.Marshal(append([]string{n.Dir, next}, args...))
	return "nest " + string(text)
}

// playNest sets a guest up as a host and runs a guest in it, or the tests.
func playNest(arg string) {
	var words []string
	err := json.Unmarshal([]byte(arg), &words)
	if err == nil {
		err = Furnish(words[0])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	n := Nest{Dir: words[0], Program: filepath.Join(words[0], "vcgroupfs"),
		tests: filepath.Join(words[0], "integration.test")}
	cmd := n.Run(words[1], words[2:]...)
	if words[1] == "suite" {
		cmd = exec.Command(n.tests, words[2:]...)
		cmd.Env = append(os.Environ(), RoleVariable+"=", "VCGROUPFS="+n.Program)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// Furnish gives a guest what a host has: places of its own for what is written.
func Furnish(dir string) error {
	runtime.LockOSThread()
	kept, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE)
	if err != nil {
		return fmt.Errorf("open_tree: %w", err)
	}
	for _, place := range []string{"/run", "/tmp"} {
		if err := unix.Mount("tmpfs", place, "tmpfs", 0, "mode=1777"); err != nil {
			return fmt.Errorf("mount %s: %w", place, err)
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := unix.MoveMount(kept, "", unix.AT_FDCWD, dir, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("move_mount: %w", err)
	}
	return nil
}
