package guest

import (
	"fmt"
	"os"
	"strings"
	"syscall"
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
	var first, most int
	for line := range strings.Lines(idMap) {
		var inside, outside, size int
		if n, _ := fmt.Sscan(line, &inside, &outside, &size); n != 3 {
			continue
		}
		if inside <= usernsBase && usernsBase+usernsSize <= inside+size {
			return syscall.SysProcIDMap{HostID: usernsBase, Size: usernsSize}, true
		}
		if size > most {
			first, most = inside, size
		}
	}
	return syscall.SysProcIDMap{HostID: first + most/2, Size: most / 2}, most >= 2
}
