package policy

import (
	"fmt"
	"strings"
)

// maxName bounds the name of a control file in a policy: NAME_MAX, more than any kernel's file has.
const maxName = 255

// glob is the name of a control file, or a pattern of it in which '*' is any run of bytes, none included: the same
// language that hierarchy.ControlFile.Name is written in.
type glob string

// parseGlob checks the text of a glob; the error says what is allowed.
func parseGlob(s string) (glob, error) {
	switch {
	case s == "":
		return "", fmt.Errorf("empty; allowed: the name of a control file such as memory.max, or a glob such as \"memory.*\"")
	case len(s) > maxName:
		return "", fmt.Errorf("longer than %d bytes, as no control file is", maxName)
	}
	for _, c := range []byte(s) {
		if c != '*' && !isNameByte(c) {
			return "", fmt.Errorf("bad glob at %q; allowed: letters, digits, '.', '_', '-', and '*' for any run of bytes", c)
		}
	}
	return glob(s), nil
}

// isNameByte says whether the kernel uses this byte in the names of its control files.
func isNameByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-'
}

// literal says that the glob is a plain name.
func (g glob) literal() bool { return strings.IndexByte(string(g), '*') < 0 }

// match says whether the glob covers a name. It allocates nothing, and takes no longer than the product of the lengths.
func (g glob) match(name string) bool {
	i, j, star, from := 0, 0, -1, 0
	for j < len(name) {
		switch {
		case i < len(g) && g[i] == '*':
			star, from = i, j
			i++
		case i < len(g) && g[i] == name[j]:
			i++
			j++
		case star >= 0:
			from++
			i, j = star+1, from
		default:
			return false
		}
	}
	for i < len(g) && g[i] == '*' {
		i++
	}
	return i == len(g)
}

// meets says whether some name is covered by both globs. A '*' in either may stand for anything, so the answer is found
// over all pairs of positions: reach[j] tells whether g from i and h from j can still meet.
func (g glob) meets(h glob) bool {
	switch {
	case h.literal():
		// Most are.
		return g.match(string(h))
	case g.literal():
		return h.match(string(g))
	}
	// Row i+1 of the recurrence.
	reach := make([]bool, len(h)+1)
	for i := len(g); i >= 0; i-- {
		row := make([]bool, len(h)+1)
		for j := len(h); j >= 0; j-- {
			switch {
			case i == len(g) && j == len(h):
				row[j] = true
			case i < len(g) && g[i] == '*':
				row[j] = reach[j] || j < len(h) && row[j+1]
			case j < len(h) && h[j] == '*':
				row[j] = row[j+1] || i < len(g) && reach[j]
			case i < len(g) && j < len(h):
				row[j] = g[i] == h[j] && reach[j+1]
			}
		}
		reach = row
	}
	return reach[0]
}
