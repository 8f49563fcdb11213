package integration

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// TestListing: what a listing brings of child cgroups is what their lookups find, with the guest's owners and modes, in a directory
// whose listing takes several answers.
func TestListing(t *testing.T) {
	hier := kit.NeedHierarchy(t, kit.OpenHost(t), "pids")
	path := kit.NewBoundary(t, "listing", hier)
	var names []string
	for i := range 300 {
		names = append(names, fmt.Sprintf("c%03d", i))
		if err := os.Mkdir(filepath.Join(kit.HostDir(hier, path), names[i]), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	options := []string{"--boundary", path, "--controllers", "pids"}
	lookups := kit.MountView(t, options...).Top(hier)
	if err := errors.Join(os.Chown(lookups+"/c007", 1000, 1001), os.Chmod(lookups+"/c008", 0o700)); err != nil {
		t.Fatal(err)
	}
	listing := kit.MountView(t, options...).Top(hier)
	entries, err := os.ReadDir(listing)
	if err != nil {
		t.Fatal(err)
	}
	entries = slices.DeleteFunc(entries, func(e os.DirEntry) bool { return !e.IsDir() })
	if got := len(entries); got != len(names) {
		t.Fatalf("%d cgroups are listed, want %d", got, len(names))
	}
	for i, name := range names {
		if entries[i].Name() != name {
			t.Fatalf("%s is listed where %s should be", entries[i].Name(), name)
		}
		var listed, found unix.Stat_t
		if err := errors.Join(unix.Lstat(filepath.Join(listing, name), &listed), unix.Lstat(filepath.Join(lookups, name), &found)); err != nil {
			t.Fatal(err)
		}
		if listed.Dev = found.Dev; listed != found {
			t.Errorf("%s: listed %+v, looked up %+v", name, listed, found)
		}
	}
}
