package fs

import (
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// An attribute of the real directory keeps the value of a faked file (notify_on_release). On the host's file the
// value would make the host run its release agent, as root, with a path of the guest's choosing.
const attrFake = "notify_on_release"

// readFake returns a faked file's content: 0 at the boundary, where the value is the host's.
func (hier *viewHierarchy) readFake(dir uint64) ([]byte, error) {
	on := false
	if !hier.isRoot(dir) {
		d, err := hier.acquire(dir)
		if err != nil {
			return nil, unix.ENODEV
		}
		defer d.Release()
		on = hier.fakeSet(d)
	}
	if on {
		return []byte("1\n"), nil
	}
	return []byte("0\n"), nil
}

func (hier *viewHierarchy) fakeSet(d *host.Dir) bool { return hier.flagSet(d, attrFake) }

// flagSet reports that an attribute of a directory is 1.
func (hier *viewHierarchy) flagSet(d *host.Dir, attr string) bool {
	var buf [1]byte
	n, err := hier.self(d).GetXattr(attr, buf[:])
	return err == nil && n == 1 && buf[0] == '1'
}

// setFake sets a faked file.
func (v *View) setFake(hier *viewHierarchy, dir uint64, on bool) error {
	d, err := hier.acquire(dir)
	if err != nil {
		return unix.ENODEV
	}
	defer d.Release()
	if on {
		return v.setAttrs(hier.self(d), viewsAttr, false, attrChange{stored: attrFake, data: []byte("1")})
	}
	if err := v.removeAttr(hier.self(d), attrFake, false); err != nil && status(err) != fuseNoData {
		return err
	}
	return nil
}

// writeFake sets a file that the view keeps.
func (v *View) writeFake(_ <-chan struct{}, h *handle, _ uint32, data []byte) error {
	on, err := parseBool(data)
	if err != nil {
		return err
	}
	return v.setFake(h.hier, h.dir, on)
}

// parseBool parses an unsigned number as kstrtoull with base 0, for files that distinguish only 0 from the rest.
func parseBool(data []byte) (bool, error) {
	s := strings.TrimSuffix(untilNUL(data), "\n")
	n, err := hierarchy.ParseUint(s)
	return n != 0, err
}
