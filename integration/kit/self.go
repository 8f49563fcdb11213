package kit

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// StartSelfDaemon starts a daemon whose self is for the cgroups of this test run alone.
func StartSelfDaemon(t testing.TB, options ...string) *Daemon {
	t.Helper()
	if !slices.Contains(options, "--container") {
		options = append(options, "--container", "/"+Prefix+"*")
	}
	if !slices.Contains(options, "--self-controllers") {
		options = append(options, "--self-controllers", "pids")
	}
	d := StartDaemonWith(t, Program(t), append([]string{"--self"}, options...))
	if err := os.Chmod(d.Dir, 0o755); err != nil { // root of a user namespace is nobody here
		t.Fatal(err)
	}
	d.Mounts[d.Self()] = true
	return d
}

// Self is the directory of the daemon's self.
func (d *Daemon) Self() string { return filepath.Join(d.Dir, "self") }

// Guests are the guests that the daemon has.
func (d *Daemon) Guests(t testing.TB) (all []Guest) {
	t.Helper()
	if err := d.Call("GET", "/v1/guests", nil, &all); err != nil {
		t.Fatal(err)
	}
	return all
}

// Guest is what a test reads of a row of GET /v1/guests.
type Guest struct {
	Name string `json:"name"`
	Rule string `json:"rule"`
	Spec struct {
		Boundary, Owner string
	} `json:"spec"`
}

// WantOne wants one guest, made by self, and says which.
func (d *Daemon) WantOne(t testing.TB, boundary, owner string) Guest {
	t.Helper()
	all := d.Guests(t)
	if len(all) != 1 || all[0].Spec.Boundary != boundary || all[0].Spec.Owner != owner || all[0].Rule != "/"+Prefix+"*" {
		t.Fatalf("the guests are %+v; want one at %s of %s", all, boundary, owner)
	}
	return all[0]
}

// WantNone waits until the daemon has seen that its guests' cgroups are gone.
func (d *Daemon) WantNone(t testing.TB) {
	t.Helper()
	Eventually(t, "the guests to go with their cgroups", func() bool {
		left, _ := os.ReadDir(filepath.Join(d.Dir, "views"))
		return len(d.Guests(t)) == 0 && len(left) == 0
	})
}

// StartSelfInsider is a process in a container's cgroup, and in a mount namespace of its own.
func StartSelfInsider(t *testing.T, d *Daemon, name string) (*Insider, func() string) {
	t.Helper()
	x := StartInsider(t, d, name)
	if err := x.Place.Hierarchy.WriteFile(x.Place.Path, "pids.max", "77"); err != nil {
		t.Fatal(err)
	}
	limit := TopOf(d.Self(), x.Place.Hierarchy) + "/pids.max"
	return x, func() string { return x.Ask(t, "read", limit) }
}
