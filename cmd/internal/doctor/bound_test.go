package doctor

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestBound(t *testing.T) {
	const admin, mknod = 1 << unix.CAP_SYS_ADMIN, 1 << unix.CAP_MKNOD
	for _, c := range []struct {
		own, root bool
		p         powers
		users     bool
		state     string
		says      string
	}{
		{false, false, powers{bounding: admin}, true, OK, "out of its reach"},
		{false, true, powers{}, true, Less, "maps the host's root"},
		{true, true, powers{bounding: admin, filtered: true}, true, Less, "CAP_SYS_ADMIN"},
		{true, true, powers{bounding: admin}, false, Less, "CAP_SYS_ADMIN"},
		{true, true, powers{}, true, Less, "no seccomp filter"},
		{true, true, powers{}, false, OK, "no user namespace can be made"},
		{true, true, powers{filtered: true}, true, OK, "its seccomp filter"},
		{true, true, powers{bounding: mknod, filtered: true}, true, OK, "CAP_MKNOD"},
	} {
		got := bound("x", c.own, c.root, c.p, c.users)
		if got.State != c.state || !strings.Contains(got.Found, c.says) || (got.State == OK) != (got.Do == "") {
			t.Errorf("%+v: %+v", c, got)
		}
	}
	for ids, want := range map[string]bool{"0 0 4294967295\n": true, "0 100000 65536\n": false, "0 1000 1\n1 0 1\n": true, "": false, "x\n": false, "0 4294967295 1\n": false} {
		if mapsRoot(ids) != want {
			t.Errorf("%q maps root: %v", ids, !want)
		}
	}
	if _, err := Bound(1 << 22); err == nil {
		t.Error("of a process that is not there")
	}
	if got, err := Bound(os.Getpid()); err != nil || got.Found == "" {
		t.Errorf("%+v, %v", got, err)
	}
}
