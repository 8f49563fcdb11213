package api

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
)

// Makers of guests. A name belongs to the maker of its guest: no other maker removes the guest by that name.
const (
	ByHand     = "hand"     // "guest add", or a program that uses this interface without naming itself
	ByHook     = "hook"     // a runtime's hook
	ByNRI      = "nri"      // a hook that the NRI plugin added to a container
	ByDeclared = "declared" // a file in the guests' directory
	BySelf     = "self"     // the container itself, by touching self
)

// Maker identifies the maker of a guest. The same container is the same maker: its runtime calls hooks with the same
// bundle.
type Maker struct {
	By string `json:"by"`
	// Of is the container's bundle or its configuration file (hook and nri), or the pattern that it matches (self).
	Of string `json:"of,omitempty"`
}

// MakerBy returns the maker of a guest. For a guest of a version without makers, m is nil or empty, and the other
// fields tell.
func MakerBy(m *Maker, declared bool, rule string) Maker {
	switch {
	case m != nil && m.By != "":
		return *m
	case declared:
		return Maker{By: ByDeclared}
	case rule != "":
		return Maker{By: BySelf, Of: rule}
	}
	return Maker{By: ByHand}
}

// String returns the maker in the form of messages and tables.
func (m Maker) String() string {
	if m.Of == "" {
		return m.By
	}
	return m.By + " of " + m.Of
}

// makerHeader carries the maker of a PUT, and the caller of a DELETE. It is neither in the body nor a parameter, so
// that a daemon of a version without makers still serves the hooks of a newer program.
const makerHeader = "Vcgroupfs-Maker"

// forceParameter of a DELETE removes another maker's guest, or a frozen one.
const forceParameter = "force"

// maxMaker bounds the stored maker, in bytes. A path has at most 4096.
const maxMaker = 4096

// callers are the makers that use the interface; the others never do.
var callers = []string{ByHand, ByHook, ByNRI}

func (m Maker) put(h http.Header) {
	if m.By != "" {
		h.Set(makerHeader, url.Values{"by": {m.By}, "of": {m.Of}}.Encode())
	}
}

// makerOf returns the caller, by hand if the request does not tell.
func makerOf(h http.Header) (Maker, error) {
	said := h.Get(makerHeader)
	if said == "" {
		return Maker{By: ByHand}, nil
	}
	values, err := url.ParseQuery(said)
	m := Maker{By: values.Get("by"), Of: values.Get("of")}
	switch {
	case err != nil:
		return m, fault.New(fault.Invalid, "cannot read the header %s: %v", makerHeader, err)
	case !slices.Contains(callers, m.By):
		return m, fault.New(fault.Invalid,
			"header %s: by=%.40q is not allowed; allowed: %s", makerHeader, m.By, strings.Join(callers, ", "))
	case len(m.Of) > maxMaker:
		return m, fault.New(fault.Invalid,
			"header %s: \"of\" has %d bytes; allowed: %d", makerHeader, len(m.Of), maxMaker)
	}
	return m, nil
}

// parseForce reads the parameter of a DELETE; an empty list means false.
func parseForce(values []string) (bool, error) {
	switch {
	case len(values) == 0:
		return false, nil
	case len(values) == 1 && (values[0] == "true" || values[0] == "false"):
		return values[0] == "true", nil
	}
	return false, fmt.Errorf("parameter %s: allowed: true, false", forceParameter)
}
