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
	d := startDaemon(t)
	x := startInsider(t, d, "inside-given")
	real := hostDir(x.place.tree, x.place.path)
	user := guestID + 1000 // of the guest, who has a cgroup of its own
	for _, dir := range []string{"child", "child/user"} {
		if err := os.Mkdir(filepath.Join(real, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		file     string
		uid, gid int
	}{
		{"", 0, guestID}, {procs, guestID, guestID}, {"child", guestID, guestID}, {"child/" + procs, guestID, guestID},
		{"child/user", user, user}, {"child/user/" + procs, user, 0},
	} {
		if err := os.Chown(filepath.Join(real, c.file), c.uid, c.gid); err != nil {
			t.Fatal(err)
		}
	}
	given := owners(t, real)
	owner := strconv.Itoa(guestID) + ":" + strconv.Itoa(guestID)
	for range 2 {
		x.add(t, "in", "--owner", owner)
		for path, who := range owners(t, real) {
			if who != "0 0" {
				t.Errorf("%s is %s's", path, who)
			}
		}
		seen := owners(t, topOf(filepath.Join(filepath.Dir(d.socket), "views", "in"), x.place.tree))
		root := strconv.Itoa(guestID) + " " + strconv.Itoa(guestID)
		for path, want := range map[string]string{
			"": root, "/" + procs: root, "/child": root, "/child/" + procs: root, "/child/user": strconv.Itoa(user) + " " + strconv.Itoa(user), "/child/user/" + procs: strconv.Itoa(user) + " 0",
		} {
			if seen[path] != want {
				t.Errorf("the view says that %q is %q's; want %q", path, seen[path], want)
			}
		}
		d.signal(t, unix.SIGKILL, 0) // the next worker knows, too
		d.ready(t)
		d.wantTry(t, 0, "", "guest", "rm", "in")
		if after := owners(t, real); !maps.Equal(after, given) {
			t.Errorf("given back: %v; it was %v", after, given)
		}
	}
	// What the guest's root is given while it has the view is taken with the next attaching, and its boundary soon.
	x.add(t, "in", "--owner", owner)
	if err := os.Chown(filepath.Join(real, "child"), guestID, guestID); err != nil {
		t.Fatal(err)
	}
	d.wantTry(t, 0, "", "guest", "attach", "in")
	if got := owners(t, real)["/child"]; got != "0 0" {
		t.Errorf("child is %s's", got)
	}
	for _, file := range []string{"child", procs, ""} {
		if err := os.Chown(filepath.Join(real, file), guestID, guestID); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the boundary and all in it to be the host's", func() bool {
		return !slices.ContainsFunc(slices.Collect(maps.Values(owners(t, real))), func(who string) bool { return who != "0 0" })
	})
	d.stop(t) // which nobody asked to let go of the guest
	for path, who := range owners(t, real) {
		if who != "0 0" {
			t.Errorf("%s is %s's after the daemon's end", path, who)
		}
	}
}
