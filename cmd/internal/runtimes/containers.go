package runtimes

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"strconv"
	"strings"
)

// Containers are patterns of the cgroups of containers, by their paths from the hierarchy's root.
//
// A pattern matches component by component: '*', '?' and '[…]' as in path.Match, and {id} for the 64 hexadecimal
// digits of a container's name in runtimes. {id} excludes other cgroups that a runtime makes beside its containers:
// /docker/buildkit, libpod-conmon-….scope.
type Containers []string

// An id in a pattern, and its digits.
const (
	idMark   = "{id}"
	idLength = 64
)

// maxPatternParts bounds the components of a pattern; the kernel's own bound on a path is PATH_MAX.
const maxPatternParts = 64

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

var (
	longID   = regexp.MustCompile(`[0-9a-f]{` + strconv.Itoa(idLength) + `}`)
	unit     = regexp.MustCompile(`\.(scope|service|slice)$`)
	unnamely = regexp.MustCompile(`[^A-Za-z0-9_]+`)
)

// shortID is the length to which runtimes shorten an id for people.
const shortID = 12

// Stem returns a readable name for a container whose boundary a pattern matches: the variable component of the path,
// without a unit's suffix, with ids shortened. It has letters, digits, '_' and '-' only, and several containers may
// have the same.
func Stem(boundary, pattern string) string {
	stem := path.Base(boundary)
	parts := strings.Split(boundary, "/")
	for i, glob := range strings.Split(pattern, "/") {
		if strings.ContainsAny(glob, "*?[{") {
			// The last one counts.
			stem = parts[i]
		}
	}
	stem = longID.ReplaceAllStringFunc(unit.ReplaceAllString(stem, ""), func(id string) string { return id[:shortID] })
	stem = strings.Trim(unnamely.ReplaceAllString(stem, "-"), "-")
	if stem == "" {
		return "container"
	}
	return stem
}
