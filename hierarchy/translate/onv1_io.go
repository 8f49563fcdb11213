package translate

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// throttles are the keys of io.max and v1's files for them.
var throttles = []struct{ key, file string }{
	{"rbps", "blkio.throttle.read_bps_device"}, {"wbps", "blkio.throttle.write_bps_device"},
	{"riops", "blkio.throttle.read_iops_device"}, {"wiops", "blkio.throttle.write_iops_device"},
}

func readIOMax(f file) (string, error) {
	values := map[string]map[string]string{}
	var names []string
	for _, t := range throttles {
		s, err := f.Read(t.file)
		if err != nil {
			return "", err
		}
		for text := range strings.Lines(s) {
			name, value, _ := strings.Cut(strings.TrimSpace(text), " ")
			if values[name] == nil {
				values[name], names = map[string]string{}, append(names, name)
			}
			values[name][t.key] = value
		}
	}
	var b strings.Builder
	for _, name := range names {
		b.WriteString(name)
		for _, t := range throttles {
			value := values[name][t.key]
			if value == "" {
				value = "max"
			}
			b.WriteString(" " + t.key + "=" + value)
		}
		b.WriteByte('\n')
	}
	return b.String(), nil
}

// writeIOMax sets limits of one device, after all of them were read. EINVAL for another form. EOPNOTSUPP where there
// are cgroups below, which v1's limits do not hold.
func writeIOMax(f file, v hierarchy.Value) error {
	fields := strings.Fields(string(v.Canonical()))
	if len(fields) < 2 {
		return unix.EINVAL
	}
	type change struct{ file, value string }
	var changes []change
	for _, field := range fields[1:] {
		key, value, _ := strings.Cut(field, "=")
		if value == "max" {
			value = "0"
		} else if n, err := strconv.ParseUint(value, 10, 64); err != nil || n == 0 {
			return unix.EINVAL
		}
		found := false
		for _, t := range throttles {
			if t.key == key {
				changes, found = append(changes, change{t.file, value}), true
			}
		}
		if !found {
			return unix.EINVAL
		}
	}
	if below, err := f.Below(); err != nil || len(below) > 0 {
		return errors.Join(err, unix.EOPNOTSUPP)
	}
	for _, c := range changes {
		if err := f.Write(c.file, fields[0]+" "+c.value); err != nil {
			return err
		}
	}
	return nil
}

// readIOStat is io.stat, from v1's counts of bytes and of operations.
func readIOStat(f file) (string, error) {
	type counts map[string]uint64
	values := map[string]counts{}
	var names []string
	for _, of := range []struct{ file, read, write, discard string }{
		{"blkio.throttle.io_service_bytes_recursive", "rbytes", "wbytes", "dbytes"},
		{"blkio.throttle.io_serviced_recursive", "rios", "wios", "dios"},
	} {
		s, err := f.Read(of.file)
		if err != nil {
			return "", err
		}
		for text := range strings.Lines(s) {
			fields := strings.Fields(text)
			if len(fields) != 3 {
				continue
			}
			key := map[string]string{"Read": of.read, "Write": of.write, "Discard": of.discard}[fields[1]]
			if key == "" {
				continue
			}
			if values[fields[0]] == nil {
				values[fields[0]], names = counts{}, append(names, fields[0])
			}
			values[fields[0]][key], _ = strconv.ParseUint(fields[2], 10, 64)
		}
	}
	var b strings.Builder
	for _, name := range names {
		b.WriteString(name)
		for _, key := range []string{"rbytes", "wbytes", "rios", "wios", "dbytes", "dios"} {
			fmt.Fprintf(&b, " %s=%d", key, values[name][key])
		}
		b.WriteByte('\n')
	}
	return b.String(), nil
}
