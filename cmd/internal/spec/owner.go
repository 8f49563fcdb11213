package spec

import (
	"fmt"
	"strconv"
	"strings"
)

// Owner is the host's uid and gid of the guest's root.
type Owner struct {
	UID, GID uint32
}

// ParseOwner reads "UID:GID", host ids. The error shows the form.
func ParseOwner(s string) (Owner, error) {
	u, g, ok := strings.Cut(s, ":")
	uid, err1 := strconv.ParseUint(u, 10, 32)
	gid, err2 := strconv.ParseUint(g, 10, 32)
	// The id that means no id (INVALID_UID of include/linux/uidgid.h).
	const none = 1<<32 - 1
	if !ok || err1 != nil || err2 != nil || uid == none || gid == none {
		return Owner{}, fmt.Errorf("cannot read owner %q: write UID:GID, two numbers of the host, as in 100000:100000", s)
	}
	return Owner{UID: uint32(uid), GID: uint32(gid)}, nil
}
