package run

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"

	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// A guest in a user namespace has a range of the host's ids to itself. To the kernel, guests with the same ids would be
// one user: for files, signals, keys, and everything that it counts by user. A range has rangeSize ids. It is one of
// vcgroupfs's in /etc/subuid, or without such a line one of those that systemd reserves for containers
// (systemd.io/UIDS-GIDS), from firstRange on and below rangesEnd.
const (
	rangeSize  = 65536
	firstRange = 0x80000
	rangesEnd  = 0x70000000
)

// keptIDs is the number of ids that a small user namespace keeps for its own users.
const keptIDs = 1024

// idsDir has a file for each range in use. The file is locked as long as a process of the guest may live.
const idsDir = "/run/vcgroupfs/ids"

// ids are the ids from one on and below another.
type ids struct{ from, to int64 }

func (r ids) size() int64 { return r.to - r.from }

// mapping returns the range as a line of uid_map and gid_map.
func (r ids) mapping() []syscall.SysProcIDMap {
	return []syscall.SysProcIDMap{{HostID: int(r.from), Size: int(r.size())}}
}

// common lists the ids that are in both lists.
func common(a, b []ids) (both []ids) {
	for _, x := range a {
		for _, y := range b {
			if r := (ids{max(x.from, y.from), min(x.to, y.to)}); r.size() > 0 {
				both = append(both, r)
			}
		}
	}
	return both
}

// free lists, in ascending order, the ranges without a taken id. It sorts both lists.
func free(ranges, taken []ids) (left []ids) {
	for _, list := range [][]ids{ranges, taken} {
		slices.SortFunc(list, func(a, b ids) int { return cmp.Compare(a.from, b.from) })
	}
	// The end of the taken ids that begin before the range ends.
	var reach int64
	for _, r := range ranges {
		for len(taken) > 0 && taken[0].from < r.to {
			reach, taken = max(reach, taken[0].to), taken[1:]
		}
		if reach <= r.from {
			left = append(left, r)
		}
	}
	return left
}

// cut divides ids into ranges of rangeSize.
func cut(all []ids) (ranges []ids) {
	for _, r := range all {
		for from := r.from; from+rangeSize <= r.to; from += rangeSize {
			ranges = append(ranges, ids{from, from + rangeSize})
		}
	}
	return ranges
}

// halves divides the ids of a small user namespace: the upper half of its longest range, the upper half of the rest,
// and so on down to the ids that it keeps. The first half may reach into those. A guest with that half can be a host
// again.
func halves(all []ids) (ranges []ids) {
	var rest ids
	for _, r := range all {
		if r.size() > rest.size() {
			rest = r
		}
	}
	kept := rest.from + keptIDs
	for {
		n := rest.size() / 2
		half := ids{rest.from + n, rest.from + 2*n}
		if half.size() == 0 || len(ranges) > 0 && half.from < kept {
			return ranges
		}
		ranges = append(ranges, half)
		rest.to = half.from
	}
}

// idSources decide which ids a guest may have.
type idSources struct {
	have  []ids // of our user namespace, as uids and gids
	used  []ids // of other running user namespaces
	given []ids // of vcgroupfs, by /etc/subuid and /etc/subgid
	taken []ids // of all others, by those files, /etc/passwd and /etc/group
}

// ranges lists the ranges that a guest may have, in the order of trying. The error tells the remedy when there is none.
func (s idSources) ranges() ([]ids, error) {
	given := common(s.have, s.given)
	all := cut(given)
	switch {
	case slices.ContainsFunc(given, func(r ids) bool { return r.from < rangeSize }):
		return nil, fmt.Errorf("cannot use the ids of %s in %s: those below %d are the host's own",
			subIDOwner, subIDFiles, rangeSize)
	case len(given) > 0 && len(all) == 0:
		return nil, fmt.Errorf("cannot use the ids of %s in %s: a guest needs %d in a row", subIDOwner, subIDFiles, rangeSize)
	case len(given) == 0:
		all = cut(common(s.have, []ids{{firstRange, rangesEnd}}))
	}
	if len(all) > 0 {
		left := free(all, slices.Concat(s.used, s.taken))
		if len(left) == 0 {
			return nil, noneLeft(all)
		}
		return left, nil
	}
	// The files may be the host's, whose ids are different, or assign all ids to one user.
	if all = halves(s.have); len(all) == 0 {
		return nil, errors.New("cannot give the guest ids of its own: this user namespace has none to spare " +
			"(/proc/self/uid_map, /proc/self/gid_map)")
	}
	left := free(slices.Clone(all), s.used)
	if len(left) == 0 {
		return nil, noneLeft(all)
	}
	slices.Reverse(left)
	return left, nil
}

// noneLeft reports that all ranges are taken, with the remedy.
func noneLeft(ranges []ids) error {
	if ranges[0].size() < rangeSize {
		return fmt.Errorf(
			"cannot give the guest ids of its own: running guests or other containers have all %d ranges; end one",
			len(ranges))
	}
	return fmt.Errorf(
		"cannot give the guest ids of its own: all %d ranges are taken, by running guests, other containers, "+
			"users and groups, or others in %s; end a guest, or add a line %s:FIRST:COUNT to both, with %d free ids for each "+
			"guest",
		len(ranges), subIDFiles, subIDOwner, rangeSize)
}

// readIDSources reads the id maps, the ids of other user namespaces, and the files of /etc.
func readIDSources() (s idSources, err error) {
	var maps [2][]ids
	for i, file := range []string{"uid_map", "gid_map"} {
		raw, err := os.ReadFile(filepath.Join("/proc/self", file))
		if err != nil {
			return s, err
		}
		for _, r := range host.IDRanges(string(raw)) {
			maps[i] = append(maps[i], ids{r.Inside, r.Inside + r.Size})
		}
	}
	s.have = common(maps[0], maps[1])
	used, err := host.UsedIDs()
	if err != nil {
		return s, err
	}
	for _, r := range used {
		s.used = append(s.used, ids{r.Outside, r.Outside + r.Size})
	}
	return s, s.readFiles("/etc")
}

// guestIDs are the ids of a running guest.
type guestIDs struct {
	ids
	file *os.File // locked
}

// allocateIDs takes a range that no running guest has. The error tells the remedy when there is none.
func allocateIDs() (*guestIDs, error) {
	s, err := readIDSources()
	if err != nil {
		return nil, fmt.Errorf("cannot choose ids for the guest: %w", err)
	}
	ranges, err := s.ranges()
	if err != nil {
		return nil, err
	}
	for _, r := range ranges {
		file, err := lockBelow(idsDir, strconv.FormatInt(r.from, 10))
		if err == nil {
			return &guestIDs{r, file}, nil
		}
		if !errors.Is(err, errLocked) {
			return nil, fmt.Errorf("cannot note the guest's ids: %w", err)
		}
	}
	// Other guests have started meanwhile.
	return nil, noneLeft(ranges)
}

// release returns the range, after the last process of the guest has ended.
func (g *guestIDs) release() {
	// The file is still locked.
	os.Remove(g.file.Name())
	g.file.Close()
}
