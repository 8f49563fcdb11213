package attach

import (
	"bytes"
	"io"
	"os"
	"strconv"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// mounts are the mounts of a process around a place, at a moment.
type mounts struct {
	id      int  // of the mount that the place is in
	covered bool // the place is the root of that mount: something is mounted there
	table   []*mountinfo.Info
}

// mount reads the mount that the place is in, the one below that, and all at its mount point and under it. A process
// whose mounts a runtime has just copied from the host's has a line for each of the host's, so the others are not
// parsed.
func (p *place) mount() (now mounts, err error) {
	var st unix.Statx_t
	if err := unix.Statx(p.at, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_MNT_ID, &st); err != nil {
		return now, os.NewSyscallError("statx", err)
	}
	now = mounts{id: int(st.Mnt_id), covered: st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0}
	if _, err := p.mounts.Seek(0, io.SeekStart); err != nil {
		return now, err
	}
	all, err := io.ReadAll(p.mounts)
	if err != nil {
		return now, err
	}
	now.table, err = hierarchy.ReadMounts(bytes.NewReader(around(all, now.id)), nil)
	return now, err
}

// around returns the lines of a mount table for a mount, its parent, and all at its mount point and under it; nothing
// if it is not there.
func around(table []byte, id int) (lines []byte) {
	own, number := mountLine{}, strconv.AppendInt(nil, int64(id), 10)
	for line := range bytes.Lines(table) {
		if own = mountLineOf(line); bytes.Equal(own.id, number) {
			break
		}
	}
	if !bytes.Equal(own.id, number) {
		return nil
	}
	for line := range bytes.Lines(table) {
		if m := mountLineOf(line); bytes.Equal(m.id, own.parent) || m.under(own.point) {
			lines = append(lines, line...)
		}
	}
	return lines
}

// mountLine has the fields of a line of a mount table by which it is chosen (proc_pid_mountinfo(5)).
type mountLine struct{ id, parent, point []byte }

func mountLineOf(line []byte) mountLine {
	var fields [5][]byte
	for i := range fields {
		fields[i], line, _ = bytes.Cut(line, []byte{' '})
	}
	return mountLine{fields[0], fields[1], fields[4]}
}

// under reports that the mount point is the same as another, or below it.
func (m mountLine) under(point []byte) bool {
	rest, is := bytes.CutPrefix(m.point, point)
	return is && (len(rest) == 0 || rest[0] == '/' || len(point) == 1)
}
