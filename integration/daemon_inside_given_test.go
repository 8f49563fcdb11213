package integration

import (
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// owners are who owns a directory and all below, as "UID GID".
func owners(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		var st unix.Stat_t
		if err == nil {
			err = unix.Lstat(path, &st)
		}
		all[strings.TrimPrefix(path, dir)] = strconv.Itoa(int(st.Uid)) + " " + strconv.Itoa(int(st.Gid))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestInsideGiven: cgroups that a runtime has given to the root of a guest's user namespace are the host's root's from when the view
// is attached, the view shows whose they were, and they are given back when it is taken away.
func TestInsideGiven(t *testing.T) {
	d := kit.StartDaemon(t)
	x := kit.StartInsider(t, d, "inside-given")
	real := kit.HostDir(x.Place.Hierarchy, x.Place.Path)
	user := kit.GuestID + 1000 // of the guest, who has a cgroup of its own
	for _, dir := range []string{"child", "child/user"} {
		if err := os.Mkdir(filepath.Join(real, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		file     string
		uid, gid int
	}{
		{"", 0, kit.GuestID}, {kit.Procs, kit.GuestID, kit.GuestID}, {"child", kit.GuestID, kit.GuestID}, {"child/" + kit.Procs, kit.GuestID, kit.GuestID},
		{"child/user", user, user}, {"child/user/" + kit.Procs, user, 0},
	} {
		if err := os.Chown(filepath.Join(real, c.file), c.uid, c.gid); err != nil {
			t.Fatal(err)
		}
	}
	given := owners(t, real)
	owner := strconv.Itoa(kit.GuestID) + ":" + strconv.Itoa(kit.GuestID)
	for range 2 {
		x.Add(t, "in", "--owner", owner)
		for path, who := range owners(t, real) {
			if who != "0 0" {
				t.Errorf("%s is %s's", path, who)
			}
		}
		seen := owners(t, kit.TopOf(filepath.Join(filepath.Dir(d.Socket), "views", "in"), x.Place.Hierarchy))
		root := strconv.Itoa(kit.GuestID) + " " + strconv.Itoa(kit.GuestID)
		for path, want := range map[string]string{
			"": root, "/" + kit.Procs: root, "/child": root, "/child/" + kit.Procs: root, "/child/user": strconv.Itoa(user) + " " + strconv.Itoa(user), "/child/user/" + kit.Procs: strconv.Itoa(user) + " 0",
		} {
			if seen[path] != want {
				t.Errorf("the view says that %q is %q's; want %q", path, seen[path], want)
			}
		}
		d.Signal(t, unix.SIGKILL, 0) // the next worker knows, too
		d.Ready(t)
		d.WantTry(t, 0, "", "guest", "rm", "in")
		if after := owners(t, real); !maps.Equal(after, given) {
			t.Errorf("given back: %v; it was %v", after, given)
		}
	}
	// What the guest's root is given while it has the view is taken with the next attaching, and its boundary soon.
	x.Add(t, "in", "--owner", owner)
	if err := os.Chown(filepath.Join(real, "child"), kit.GuestID, kit.GuestID); err != nil {
		t.Fatal(err)
	}
	d.WantTry(t, 0, "", "guest", "attach", "in")
	if got := owners(t, real)["/child"]; got != "0 0" {
		t.Errorf("child is %s's", got)
	}
	for _, file := range []string{"child", kit.Procs, ""} {
		if err := os.Chown(filepath.Join(real, file), kit.GuestID, kit.GuestID); err != nil {
			t.Fatal(err)
		}
	}
	kit.Eventually(t, "the boundary and all in it to be the host's", func() bool {
		return !slices.ContainsFunc(slices.Collect(maps.Values(owners(t, real))), func(who string) bool { return who != "0 0" })
	})
	d.Stop(t) // which nobody asked to let go of the guest
	for path, who := range owners(t, real) {
		if who != "0 0" {
			t.Errorf("%s is %s's after the daemon's end", path, who)
		}
	}
}
