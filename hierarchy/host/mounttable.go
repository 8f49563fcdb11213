package host

import (
	"os"

	"github.com/moby/sys/mountinfo"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// OwnMounts is the path of the calling process's mount table.
const OwnMounts = "/proc/self/mountinfo"

// MountTable reads a mount table in /proc, as hierarchy.ReadMounts does. An *os.PathError if it cannot be opened.
func MountTable(path string, filter mountinfo.FilterFunc) ([]*mountinfo.Info, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return hierarchy.ReadMounts(f, filter)
}
