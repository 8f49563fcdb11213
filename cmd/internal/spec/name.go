// Package spec has the words of a guest that a command line, an annotation or a request says, and their checks: its name,
// its owner, its limits, its controllers and its policy. It does no I/O, and knows no host: what is not there on a host
// is for the maker of the guest to find.
package spec

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// maxName is counted apart from nameForm: as {0,63} it would cost each start of the program 850 allocations.
const maxName = 64

var nameForm = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*$`)

// CheckName says whether a guest may have a name: it is the name of a cgroup on the host.
func CheckName(name string) error {
	if len(name) > maxName || !nameForm.MatchString(name) || hierarchy.ReservedName(name) {
		return fmt.Errorf("cannot use the name %q: a name is 1 to 64 of letters, digits, '_', '.' and '-', does not begin with '.' "+
			"or '-', and is no control file's", name)
	}
	return nil
}

// NameOf is a guest's name for a container's: the same where it can be one.
func NameOf(container string) string {
	if CheckName(container) == nil {
		return container
	}
	sum := sha256.Sum256([]byte(container))
	return "container-" + hex.EncodeToString(sum[:16])
}
