// Package spec parses and checks the words that describe a guest on a command line, in an annotation or in a request:
// its name, owner, limits, controllers and policy. It does no I/O and knows no host: the maker of the guest finds what
// a host lacks.
package spec

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// maxName bounds a name outside of nameForm: as {0,63} it would cost each start of the program 850 allocations.
const maxName = 64

var nameForm = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*$`)

// CheckName checks the name of a guest, which becomes the name of a cgroup on the host. The error shows the form.
func CheckName(name string) error {
	if len(name) > maxName || !nameForm.MatchString(name) || hierarchy.ReservedName(name) {
		return fmt.Errorf(
			"cannot use the name %q: a name is 1 to 64 of letters, digits, '_', '.' and '-', does not begin with '.' "+
				"or '-', and is no control file's", name)
	}
	return nil
}

// NameOf returns a guest's name for a container: the container's own name where CheckName accepts it, else a hash.
func NameOf(container string) string {
	if CheckName(container) == nil {
		return container
	}
	sum := sha256.Sum256([]byte(container))
	return "container-" + hex.EncodeToString(sum[:16])
}
