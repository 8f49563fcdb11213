package runtimes

import (
	"strings"
	"testing"
)

const someID = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// TestDefaultContainers: what runtimes make is a container's cgroup, and what they put around it is not.
func TestDefaultContainers(t *testing.T) {
	rule, _ := DefaultContainers()
	if _, err := ParseContainers(rule); err != nil {
		t.Fatal(err)
	}
	pod := "kubepods-burstable-pod0a1b.slice"
	for _, boundary := range []string{
		"/docker/ID", "/system.slice/docker-ID.scope", "/machine.slice/libpod-ID.scope", "/machine.slice/machine-libpod_pod_ID.slice/libpod-ID.scope",
		"/libpod_parent/libpod-ID", "/libpod_parent/ID/libpod-ID", "/default/ID", "/system.slice/nerdctl-ID.scope",
		"/kubepods/pod12-34/ID", "/kubepods/besteffort/pod12-34/ID", "/kubepods.slice/kubepods-pod0a.slice/cri-containerd-ID.scope",
		"/kubepods.slice/kubepods-burstable.slice/" + pod + "/crio-ID.scope", "/kubepods.slice/kubepods-burstable.slice/" + pod + "/docker-ID.scope",
		"/lxc/web", "/lxc.payload/web", "/lxc.payload.web",
		"/machine.slice/machine-deb\\x2d12.scope/payload", "/machine.slice/systemd-nspawn@web.service/payload",
	} {
		boundary = strings.ReplaceAll(boundary, "ID", someID)
		for _, below := range []string{"", "/init.scope", "/docker/" + someID, "/container"} {
			got, pattern, ok := rule.Of(boundary + below)
			if !ok || got != boundary || pattern == "" {
				t.Errorf("%s: boundary %q by %q, want %q", boundary+below, got, pattern, boundary)
			}
		}
	}
	for _, cgroup := range []string{
		"", "/", "/docker", "/docker/buildkit", "/docker/buildkit/run", "/system.slice", "/system.slice/docker.service", "/machine.slice",
		"/machine.slice/libpod-conmon-ID.scope", "/machine.slice/machine-libpod_pod_ID.slice", "/libpod_parent", "/libpod_parent/conmon",
		"/libpod_parent/ID", "/default", "/default/shim", "/kubepods", "/kubepods/pod12-34", "/kubepods/burstable", "/kubepods/burstable/pod12-34", "/kubepods.slice",
		"/kubepods.slice/kubepods-burstable.slice/" + pod, "/kubepods.slice/kubepods-burstable.slice/" + pod + "/crio-conmon-ID.scope",
		"/lxc", "/lxc.monitor.web", "/lxc.payload", "/machine.slice/machine-web.scope", "/machine.slice/machine-web.scope/supervisor",
		"/user.slice/user-1000.slice/session-1.scope", "relative", "/lxc/..", "/lxc//", "/docker/" + strings.Repeat("g", 64), "/docker/x" + someID,
	} {
		cgroup = strings.ReplaceAll(cgroup, "ID", someID)
		if got, pattern, ok := rule.Of(cgroup); ok {
			t.Errorf("%s: boundary %q by %q, want none", cgroup, got, pattern)
		}
	}
}

func TestContainers(t *testing.T) {
	for _, c := range []struct{ pattern, cgroup, boundary string }{
		{"/a/*", "/a/b/c", "/a/b"}, {"/a/*", "/a", ""}, {"/a/*/x", "/a/b/x/y", "/a/b/x"}, {"/a/*/x", "/a/b/y", ""}, {"/a-?", "/a-1/z", "/a-1"},
		{"/a[0-9]", "/a5", "/a5"}, {"/a[0-9]", "/ab", ""}, {"/*/b", "/q/b", "/q/b"}, {"/a/x{id}*", "/a/x" + someID + "tail", "/a/x" + someID + "tail"},
		{"/a/*{id}", "/a/ff" + someID, "/a/ff" + someID}, {"/a/{id}", "/a/" + someID[1:], ""},
	} {
		rule, err := ParseContainers([]string{c.pattern})
		if err != nil {
			t.Errorf("%s: %v", c.pattern, err)
		}
		if got, _, _ := rule.Of(c.cgroup); got != c.boundary {
			t.Errorf("%s of %s: %q, want %q", c.pattern, c.cgroup, got, c.boundary)
		}
	}
	// The outermost of several.
	rule, err := ParseContainers([]string{"/a/*/*", "/a/*"})
	if got, pattern, _ := rule.Of("/a/b/c"); err != nil || got != "/a/b" || pattern != "/a/*" {
		t.Errorf("%q by %q, %v; want the outermost", got, pattern, err)
	}
	bad := []string{"", "/", "a/*", "/a/", "/a/../b", "/*", "/*/?", "/a/[", "/a/{id}{id}", "/a\n", strings.Repeat("/a", 65)}
	_, err = ParseContainers(bad)
	if err == nil || strings.Count(err.Error(), "cannot use the pattern") != len(bad) {
		t.Errorf("of %d bad patterns: %v", len(bad), err)
	}
}

// FuzzContainers: a boundary is the cgroup or one above it, is its own boundary, and has as many components as its pattern.
func FuzzContainers(f *testing.F) {
	for _, seed := range [][2]string{{"/a/*", "/a/b/c"}, {"/docker/{id}", "/docker/" + someID}, {"/a/[", "/a/b"}, {"/*b", "/../b"}, {"/a/\\*", "/a/*"}, {"/a/?", "/a/-"}} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, pattern, cgroup string) {
		rule, err := ParseContainers([]string{pattern})
		if err != nil {
			return
		}
		boundary, by, ok := rule.Of(cgroup)
		if !ok {
			return
		}
		if boundary == "/" || !strings.HasPrefix(cgroup+"/", boundary+"/") || strings.Count(boundary, "/") != strings.Count(by, "/") || by != pattern {
			t.Errorf("%q of %q: %q by %q", pattern, cgroup, boundary, by)
		}
		if stem := Stem(boundary, by); stem == "" || unnamely.MatchString(strings.ReplaceAll(stem, "-", "")) {
			t.Errorf("%q of %q: the stem is %q", pattern, cgroup, stem)
		}
		if again, _, _ := rule.Of(boundary); again != boundary {
			t.Errorf("%q of %q: %q, whose own is %q", pattern, cgroup, boundary, again)
		}
	})
}

// TestStem: a container's name for people is what differs between the containers of a pattern.
func TestStem(t *testing.T) {
	for _, c := range []struct{ boundary, pattern, want string }{
		{"/docker/" + someID, "/docker/{id}", "0123456789ab"}, {"/box", "/box", "box"},
		{"/machine.slice/machine-web.scope/payload", "/machine.slice/machine-*.scope/payload", "machine-web"},
		{"/a/b/c.service", "/a/*/*", "c"}, {"/lxc/-", "/lxc/*", "container"},
	} {
		if got := Stem(c.boundary, c.pattern); got != c.want {
			t.Errorf("%s by %s: %q, want %q", c.boundary, c.pattern, got, c.want)
		}
	}
}
