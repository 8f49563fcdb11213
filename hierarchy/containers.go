package hierarchy

import (
	"errors"
	"fmt"
	"path"
	"strings"
)

// Containers are patterns of the cgroups of containers, by their paths from the hierarchy's root.
//
// A pattern matches component by component: '*', '?' and '[…]' as in path.Match, and {id} for the 64 hexadecimal
// digits of a container's name in runtimes. {id} excludes other cgroups that a runtime makes beside its containers:
// /docker/buildkit, libpod-conmon-….scope.
type Containers []string

// idMark stands for an id in a pattern, of so many digits.
const (
	idMark   = "{id}"
	idLength = 64
)

// maxPatternParts bounds the components of a pattern; the kernel's own bound on a path is PATH_MAX.
const maxPatternParts = 64

// defaultContainers are the cgroups that runtimes make without a configured parent. None of them is a cgroup of
// several containers, such as a pod's or a slice.
var defaultContainers = Containers{
	// Docker: by itself, by systemd.
	"/docker/{id}", "/system.slice/docker-{id}.scope",
	// podman as root, also in pods.
	"/machine.slice/libpod-{id}.scope", "/machine.slice/machine-libpod_pod_{id}.slice/libpod-{id}.scope",
	"/libpod_parent/libpod-{id}", "/libpod_parent/{id}/libpod-{id}",
	// nerdctl, and containerd's own ctr for containers with such an id.
	"/default/{id}", "/system.slice/nerdctl-{id}.scope",
	// Kubernetes, by the kubelet itself and by systemd.
	"/kubepods/pod*/{id}", "/kubepods/*/pod*/{id}",
	"/kubepods.slice/kubepods-pod*.slice/cri-containerd-{id}.scope",
	"/kubepods.slice/kubepods-*.slice/kubepods-*-pod*.slice/cri-containerd-{id}.scope",
	"/kubepods.slice/kubepods-pod*.slice/crio-{id}.scope",
	"/kubepods.slice/kubepods-*.slice/kubepods-*-pod*.slice/crio-{id}.scope",
	"/kubepods.slice/kubepods-pod*.slice/docker-{id}.scope",
	"/kubepods.slice/kubepods-*.slice/kubepods-*-pod*.slice/docker-{id}.scope",
	// LXC and Incus, of all versions.
	"/lxc.payload.*", "/lxc.payload/*", "/lxc/*",
	// systemd-nspawn: beside the payload is its supervisor.
	"/machine.slice/machine-*.scope/payload", "/machine.slice/systemd-nspawn@*.service/payload",
}

// DefaultContainers returns the patterns of the runtimes' defaults.
func DefaultContainers() Containers { return append(Containers(nil), defaultContainers...) }

// ParseContainers parses patterns. The error has a line for each unusable one, and shows the valid form.
func ParseContainers(patterns []string) (Containers, error) {
	var faults []error
	for _, p := range patterns {
		if why := patternFault(p); why != "" {
			faults = append(faults, fmt.Errorf("cannot use the pattern %q: %s; "+
				"write the path of a container's cgroup with * for what differs, "+
				"as in /machines/* or /docker/{id}", p, why))
		}
	}
	return append(Containers(nil), patterns...), errors.Join(faults...)
}

func patternFault(pattern string) string {
	if !strings.HasPrefix(pattern, "/") || path.Clean(pattern) != pattern || pattern == "/" ||
		strings.ContainsAny(pattern, "\n\x00") {
		return "it is no path from the root of a hierarchy"
	}
	parts := strings.Split(pattern[1:], "/")
	if len(parts) > maxPatternParts {
		return fmt.Sprintf("it has %d components, at most %d are allowed", len(parts), maxPatternParts)
	}
	named := false
	for _, part := range parts {
		before, after, _ := strings.Cut(part, idMark)
		if strings.Contains(after, idMark) {
			return "a component has one {id} at most"
		}
		for _, glob := range []string{before, after} {
			if _, err := path.Match(glob, ""); err != nil {
				return "its brackets or backslashes make no sense"
			}
		}
		named = named || strings.Trim(part, "*?") != ""
	}
	if !named {
		return "it names nothing, so that every cgroup of the host would be a container's"
	}
	return ""
}

// Of finds the container of a cgroup: of the cgroup and all above it, the matching one nearest to the root, because
// the cgroups that a container makes belong to it. Not ok without a match.
func (c Containers) Of(cgroup string) (boundary, pattern string, ok bool) {
	if !strings.HasPrefix(cgroup, "/") || cgroup == "/" {
		return "", "", false
	}
	parts := strings.Split(cgroup[1:], "/")
	for n := 1; n <= len(parts) && n <= maxPatternParts; n++ {
		for _, p := range c {
			if matchParts(p, parts[:n]) {
				return "/" + strings.Join(parts[:n], "/"), p, true
			}
		}
	}
	return "", "", false
}

func matchParts(pattern string, parts []string) bool {
	globs := strings.Split(pattern[1:], "/")
	if len(globs) != len(parts) {
		return false
	}
	for i, glob := range globs {
		if !matchPart(glob, parts[i]) {
			return false
		}
	}
	return true
}

// matchPart matches one component, which is neither empty nor ascends.
func matchPart(glob, name string) bool {
	if name == "" || name == "." || name == ".." {
		return false
	}
	before, after, hasID := strings.Cut(glob, idMark)
	if !hasID {
		ok, _ := path.Match(glob, name)
		return ok
	}
	for at := 0; at+idLength <= len(name); at++ {
		first, _ := path.Match(before, name[:at])
		last, _ := path.Match(after, name[at+idLength:])
		if first && last && isID(name[at:at+idLength]) {
			return true
		}
	}
	return false
}

func isID(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
