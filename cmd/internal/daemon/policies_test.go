package daemon

import (
	"os"
	"strconv"
	"testing"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/target"
	"github.com/vcgroupfs/vcgroupfs/policy"
)

// TestPolicies: guests with the same text and controllers share a policy, which is parsed once; and so many are kept.
func TestPolicies(t *testing.T) {
	x := newPolicies()
	a := api.GuestSpec{Policy: "version: 1\n", Controllers: []string{"pids"}}
	p := policy.Default()
	if x.share(a, p) != p || x.share(a, policy.Default()) != p {
		t.Error("not shared")
	}
	if got, err := x.of(a); got != p || err != nil {
		t.Error("parsed again", err)
	}
	b := a
	b.Controllers = []string{"memory"}
	other, err := x.of(b)
	if err != nil || other == p || other.Permits("pids") || !other.Permits("memory") {
		t.Error(other, err)
	}
	if again, _ := x.of(b); again != other {
		t.Error("parsed again")
	}
	_, err = x.of(api.GuestSpec{Policy: "version: 9\n"})
	wantFault(t, "a wrong policy", err, "version")
	for i := range 2 * maxPolicies {
		x.share(api.GuestSpec{Policy: strconv.Itoa(i)}, p)
	}
	if len(x.parsed) > maxPolicies {
		t.Errorf("%d are kept", len(x.parsed))
	}
}

// TestPaths: where views are whose spec names no target, and which directories are ours.
func TestPaths(t *testing.T) {
	x := paths{t.TempDir()}
	web := x.targetOf("web")
	if web != x.run+"/views/web" {
		t.Error(web)
	}
	for _, c := range []struct {
		spec api.GuestSpec
		own  bool
		at   target.Target
	}{
		{api.GuestSpec{Target: web}, true, target.Target{Rootfs: x.run + "/views", Path: "/web"}},
		{api.GuestSpec{Target: web + "/x"}, false, target.Target{Path: web + "/x"}},
		{api.GuestSpec{Target: "/srv"}, false, target.Target{Path: "/srv"}},
		{api.GuestSpec{Target: web, Rootfs: "/r"}, false, target.Target{Rootfs: "/r", Path: web}},
	} {
		if x.own(c.spec) != c.own || x.placeOf(c.spec) != c.at {
			t.Errorf("%+v: %v, %v", c.spec, x.own(c.spec), x.placeOf(c.spec))
		}
	}
	for range 2 {
		if err := x.makeTarget(web); err != nil {
			t.Fatal(err)
		}
		st, err := os.Stat(x.views())
		if err != nil || st.Mode().Perm() != 0o711 {
			t.Error(st.Mode(), err)
		}
		if err := os.Chmod(x.views(), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(x.run+"/file", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	wantFault(t, "below a file", paths{x.run + "/file"}.makeTarget(x.run+"/file/views/a"), "not a directory")
}
