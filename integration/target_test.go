package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// guestRoot is a file system of its own that a test's guest would have for its root.
func guestRoot(t testing.TB) string {
	t.Helper()
	root := publicDir(t)
	if err := unix.Mount("root", root, "tmpfs", 0, "mode=755"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(root, unix.MNT_DETACH) })
	if err := unix.Mount("", root, "", unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	return root
}

// buryDeep moves a directory of a guest's root so deep, below names that mount tables write with four bytes for one, that the line of
// what is mounted below it has more than 64 KiB.
func buryDeep(t testing.TB, root, dir string) {
	t.Helper()
	top, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(top)
	at, err := unix.Dup(top)
	for range 70 {
		name := strings.Repeat("\n", 255)
		var next int
		if err == nil {
			err = unix.Mkdirat(at, name, 0o755)
		}
		if err == nil {
			next, err = unix.Openat(at, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		}
		unix.Close(at)
		at = next
	}
	if err == nil {
		err = unix.Renameat(top, dir, at, "buried")
		unix.Close(at)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestLongMountTable: a line of the mount table that a guest has made longer than 64 KiB keeps nobody from reading it.
func TestLongMountTable(t *testing.T) {
	root := guestRoot(t)
	at := filepath.Join(root, "a/b")
	if err := os.MkdirAll(at, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("deep", at, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	buryDeep(t, root, "a")
	if n := len(readFile("/proc/self/mountinfo")); n < 64<<10 {
		t.Fatalf("the table has %d bytes", n)
	}
	for _, args := range [][]string{{"hierarchies"}, {"run", "--", "true"}} {
		if got := runCommand(t, args...); got.status != 0 || got.err != "" {
			t.Errorf("%v: status %d, %.300s", args, got.status, got.err)
		}
	}
}
