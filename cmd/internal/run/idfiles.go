package run

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

const (
	// subIDFiles are the files that assign ids, for messages.
	subIDFiles = "/etc/subuid and /etc/subgid"
	// subIDOwner is the name of our ids in them; no user needs to have it.
	subIDOwner = "vcgroupfs"
)

// maxID is above every id.
const maxID = 1 << 32

// readFiles reads the owners of ids from the files of a directory. A missing file assigns none.
func (s *idSources) readFiles(dir string) error {
	var given [2][]ids
	// subuid(5): NAME:FIRST:COUNT.
	for i, name := range []string{"subuid", "subgid"} {
		err := eachLine(filepath.Join(dir, name), func(at string, f []string) error {
			r, ok := subIDs(f)
			switch {
			case f[0] == subIDOwner && !ok:
				return fmt.Errorf("cannot read the ids of vcgroupfs: %s: write %s:FIRST:COUNT", at, subIDOwner)
			case f[0] == subIDOwner:
				given[i] = append(given[i], r)
			case ok:
				s.taken = append(s.taken, r)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	s.given = common(given[0], given[1])
	if len(s.given) == 0 && len(slices.Concat(given[:]...)) > 0 {
		return fmt.Errorf("cannot use the ids of vcgroupfs: it has none that are in both %s", subIDFiles)
	}
	// passwd(5), group(5): NAME:PASSWORD:ID:….
	for _, name := range []string{"passwd", "group"} {
		err := eachLine(filepath.Join(dir, name), func(_ string, f []string) error {
			if len(f) > 2 {
				if id, err := strconv.ParseInt(f[2], 10, 64); err == nil {
					s.taken = append(s.taken, ids{id, id + 1})
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// subIDs reads a line's FIRST and COUNT.
func subIDs(fields []string) (ids, bool) {
	if len(fields) != 3 {
		return ids{}, false
	}
	first, err1 := strconv.ParseUint(fields[1], 10, 63)
	count, err2 := strconv.ParseUint(fields[2], 10, 63)
	if err1 != nil || err2 != nil || first >= maxID || count == 0 {
		return ids{}, false
	}
	return ids{int64(first), int64(first + min(count, maxID))}, true
}

// eachLine calls f with the fields of each line of a file, and with its name and the line's number for messages.
func eachLine(path string, f func(at string, fields []string) error) error {
	raw, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	n := 0
	for line := range strings.Lines(string(raw)) {
		n++
		fields := strings.Split(strings.TrimSpace(line), ":")
		if err := f(fmt.Sprintf("%s:%d", path, n), fields); err != nil {
			return err
		}
	}
	return nil
}
