package cgroups

import (
	"fmt"
	"strings"

	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// journal lists the writes of Set, to report them and to restore the old values.
type journal struct {
	writes []written
	lost   []error // failed restores
}

// written is a write and the write that undoes it.
type written struct {
	Change
	boundary *host.Boundary
	id       uint64 // of the cgroup
	back     string
}

// write writes a control file, and notes the write if it changed anything.
func (j *journal) write(b *host.Boundary, d *host.Dir, file, value string) error {
	from, err := read(d, file)
	if err != nil {
		return err
	}
	if err := d.WriteFile(file, []byte(value)); err != nil {
		return err
	}
	to, err := read(d, file)
	if err != nil {
		to = value
	}
	if to == from {
		return nil
	}
	path, err := d.Path()
	if err != nil {
		// Removed meanwhile: nothing is left to restore either.
		path = "?"
	}
	j.writes = append(j.writes, written{Change{Path: viewPath(path), File: file, From: from, To: to}, b, d.ID(),
		undoing(file, from, value)})
	return nil
}

// undo restores the values before all but the first writes, the last write first: so the kernel sees the same states
// again. It skips removed cgroups.
func (j *journal) undo(first int) {
	for i := len(j.writes) - 1; i >= first; i-- {
		w := j.writes[i]
		d, err := w.boundary.Acquire(w.id)
		if err == nil {
			err = d.WriteFile(w.File, []byte(w.back))
			d.Release()
		}
		if err != nil && !gone(err) {
			j.lost = append(j.lost, fmt.Errorf("%s of %s to %q: %w", w.File, w.Path, w.back, err))
		}
	}
	j.writes = j.writes[:first]
}

// perKey lists the control files with a line per device, resource or interface, of which a write sets one. The value
// removes a line that was not there before; "" if every line is always there.
var perKey = map[string]string{
	"blkio.throttle.read_bps_device":   "0",
	"blkio.throttle.write_bps_device":  "0",
	"blkio.throttle.read_iops_device":  "0",
	"blkio.throttle.write_iops_device": "0",
	"blkio.weight_device":              "default",
	"blkio.bfq.weight_device":          "default",
	"io.max":                           "rbps=max wbps=max riops=max wiops=max",
	"io.weight":                        "default",
	"io.bfq.weight":                    "default",
	"io.latency":                       "target=0",
	"rdma.max":                         "hca_handle=max hca_object=max",
	"misc.max":                         "max",
	"dmem.max":                         "max",
	"dmem.min":                         "0",
	"dmem.low":                         "0",
	"net_prio.ifpriomap":               "0",
}

// keyOf returns the key of the line that a write sets, "" for a file with one value. A weight without a device sets the
// default.
func keyOf(file, value string) string {
	if _, ok := perKey[file]; !ok {
		return ""
	}
	if f := strings.Fields(value); len(f) > 1 {
		return f[0]
	}
	return "default"
}

// undoing returns the write that restores a control file's content.
func undoing(file, from, value string) string {
	// The file shows more than can be set.
	if file == "memory.oom_control" {
		return fmt.Sprint(max(valueOf(from, "oom_kill_disable"), 0))
	}
	if from == "" && perKey[file] == "" {
		// A write of nothing would not reach the kernel's handler.
		return "\n"
	}
	key := keyOf(file, value)
	if key == "" {
		return from
	}
	for line := range strings.Lines(from) {
		line = strings.TrimSpace(line)
		if f := strings.Fields(line); len(f) > 1 && f[0] == key || len(f) == 1 && key == "default" {
			return line
		}
	}
	return key + " " + perKey[file]
}
