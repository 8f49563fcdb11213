package host

import (
	"os"

	"github.com/moby/sys/mountinfo"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// OwnMounts is where the calling process's mount table is.
const OwnMounts = "/proc/self/mountinfo"

// MountTable reads the mount table that a file of /proc has, as hierarchy.ReadMounts does. An *os.PathError where it cannot be opened.
func MountTable(path string, filter mountinfo.FilterFunc) ([]*mountinfo.Info, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return hierarchy.ReadMounts(f, filter)
}
