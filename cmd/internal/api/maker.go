package api

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
)

// Who makes guests. A name belongs to the maker of its guest: nobody else removes the guest by that name.
const (
	ByHand     = "hand"     // "guest add", or a program that speaks this interface and says nothing of itself
	ByHook     = "hook"     // a runtime's hook
	ByNRI      = "nri"      // a hook that the NRI plugin has given to a container
	ByDeclared = "declared" // a file of the guests' directory
	BySelf     = "self"     // the container itself, by touching self
)

// Maker is who made a guest. The same container is the same maker: its runtime calls hooks with the same bundle.
type Maker struct {
	By string `json:"by"`
	Of string `json:"of,omitempty"` // hook and nri: the container's bundle, or its configuration file; self: the pattern that it matches
}

// MakerBy is who made a guest, also where a version without makers made it: m is then nil or empty, and it says so by what it has.
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

// String is what messages and tables say.
func (m Maker) String() string {
	if m.Of == "" {
		return m.By
	}
	return m.By + " of " + m.Of
}

// makerHeader carries the maker of a PUT, and whoever asks for a DELETE. It is no part of a body and no parameter, so that a daemon of a
// version without makers goes on to serve the hooks of a program that was installed since.
const makerHeader = "Vcgroupfs-Maker"

// forceParameter of a DELETE removes a guest that somebody else made, or that is frozen.
const forceParameter = "force"

// maxMaker bounds what is kept of a maker. A path has at most 4096 bytes.
const maxMaker = 4096

// callers are the makers that come by the interface; none of the others asks for anything here.
var callers = []string{ByHand, ByHook, ByNRI}

func (m Maker) put(h http.Header) {
	if m.By != "" {
		h.Set(makerHeader, url.Values{"by": {m.By}, "of": {m.Of}}.Encode())
	}
}

// makerOf is who asks, by hand where the request does not say.
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

// parseForce reads the parameter of a DELETE; an empty list is none.
func parseForce(values []string) (bool, error) {
	switch {
	case len(values) == 0:
		return false, nil
	case len(values) == 1 && (values[0] == "true" || values[0] == "false"):
		return values[0] == "true", nil
	}
	return false, fmt.Errorf("parameter %s: allowed: true, false", forceParameter)
}
