package views

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/spec"
	"github.com/vcgroupfs/vcgroupfs/fs"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// OwnerOf returns the owner of a guest: the given one, or the root of the user namespace of a process, or the host's
// root with neither. The error reports a process that does not exist, or an unreadable id map.
func OwnerOf(said *spec.Owner, pid int) (fs.Owner, error) {
	if said != nil {
		return fs.Owner(*said), nil
	}
	if pid == 0 {
		return fs.Owner{}, nil
	}
	if own, err := host.InOwnUserNamespace(pid); err == nil && own {
		return fs.Owner{}, nil
	}
	uid, err1 := hostID(pid, "uid_map")
	gid, err2 := hostID(pid, "gid_map")
	if err := errors.Join(err1, err2); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return fs.Owner{}, fmt.Errorf("cannot use process %d: no such process", pid)
		}
		return fs.Owner{}, fmt.Errorf(
			"cannot tell who is root in the user namespace of process %d: %w; say it with --owner UID:GID", pid, err1)
	}
	return fs.Owner{UID: uid, GID: gid}, nil
}

// hostID returns the host's id for id 0 of a process's user namespace.
func hostID(pid int, file string) (uint32, error) {
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/" + file)
	if err != nil {
		return 0, err
	}
	for _, r := range host.IDRanges(string(raw)) {
		if r.Inside == 0 {
			return uint32(r.Outside), nil
		}
	}
	return 0, fmt.Errorf("%s has no id 0", file)
}
