package daemon

import (
	"regexp"
	"strings"
	"testing"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/spec"
)

const someID = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// TestTouchName: a guest's name tells which container it is, is one that may be had, and is no other container's.
func TestTouchName(t *testing.T) {
	seen := map[string]bool{}
	for id, c := range []struct{ path, pattern, stem string }{
		{"/docker/" + someID, "/docker/{id}", "0123456789ab"}, {"/docker/" + someID, "/docker/{id}", "0123456789ab"},
		{"/system.slice/docker-" + someID + ".scope", "/system.slice/docker-{id}.scope", "docker-0123456789ab"},
		{"/machine.slice/machine-web\\x2d1.scope/payload", "/machine.slice/machine-*.scope/payload", "machine-web-x2d1"},
		{"/lxc.payload.web", "/lxc.payload.*", "lxc-payload-web"}, {"/lxc/memory.max", "/lxc/*", "memory-max"},
		{"/x/\xff\n..", "/x/*", "container"}, {"/x/" + strings.Repeat("y", 200), "/x/*", strings.Repeat("y", maxStem)},
	} {
		u := toucher{path: c.path, pattern: c.pattern, boundaries: []boundaryID{{Tree: "pids", ID: uint64(id)}}}
		name := u.name()
		if !regexp.MustCompile("^"+c.stem+"-[0-9a-f]{12}$").MatchString(name) || spec.CheckName(name) != nil || seen[name] {
			t.Errorf("%s: %s, want one that begins with %s", c.path, name, c.stem)
		}
		seen[name] = true
		if again := u; again.name() != name {
			t.Errorf("%s: not the same twice", c.path)
		}
	}
}

// TestBoxes: of one container only so many threads wait, and what is remembered of containers is bounded.
func TestBoxes(t *testing.T) {
	x := boxes{all: map[string]*box{}}
	for i := range maxTouchers + 1 {
		if b := x.enter("one"); (b == nil) != (i == maxTouchers) {
			t.Errorf("thread %d: %v", i, b)
		}
	}
	for i := range 3 * maxBoxes {
		x.leave(x.enter("idle" + strings.Repeat("x", i%7) + string(rune('a'+i%26)) + string(rune(i))))
	}
	if len(x.all) > maxBoxes+1 || x.all["one"] == nil {
		t.Errorf("%d are remembered; who waits: %v", len(x.all), x.all["one"])
	}
}
