package guest

import (
	"fmt"
	"os"
	"syscall"

	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// The ids of a guest in a user namespace: 64 Ki of the host's from here on.
const (
	usernsBase = 524288
	usernsSize = 65536
)

// idsFor says which ids a guest in a user namespace of its own gets, by the map of ours.
func idsFor(file string) (syscall.SysProcIDMap, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return syscall.SysProcIDMap{}, err
	}
	ids, ok := chooseIDs(string(raw))
	if !ok {
		return ids, fmt.Errorf("cannot give the guest ids of its own: this user namespace has none to spare (%s)", file)
	}
	return ids, nil
}

// chooseIDs takes the ids that a host has for guests; where they are not ours to give, in a guest with few ids, the upper half of the
// longest range.
func chooseIDs(idMap string) (syscall.SysProcIDMap, bool) {
	var longest host.IDRange
	for _, r := range host.IDRanges(idMap) {
		if r.Inside <= usernsBase && usernsBase+usernsSize <= r.Inside+r.Size {
			return syscall.SysProcIDMap{HostID: usernsBase, Size: usernsSize}, true
		}
		if r.Size > longest.Size {
			longest = r
		}
	}
	half := longest.Size / 2
	return syscall.SysProcIDMap{HostID: int(longest.Inside + half), Size: int(half)}, half > 0
}
