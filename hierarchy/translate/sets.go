package translate

import (
	"errors"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// v2 takes any set of processors or nodes, and a cgroup has of it what its parent has; with no set, or none of its
// parent's, it has all of its parent's. v1 has only sets within the parent's and around the children's. So what the
// guest wrote is kept, and v1's files have what v2 calls effective.

// readWanted shows what the guest wrote; at the boundary, what the host did.
func readWanted(own string) func(file) (string, error) {
	return func(f file) (string, error) {
		if _, below := f.Above(); !below {
			return f.Read(own)
		}
		s, err := f.Kept(f.name)
		return line(s), err
	}
}

func writeWanted(own string) func(file, hierarchy.Value) error {
	return func(f file, v hierarchy.Value) error {
		text := strings.TrimSpace(string(v.Canonical()))
		above, below := f.Above()
		if !below {
			return unix.EPERM
		}
		if text != "" {
			// The kernel knows which numbers there are. What it says of parent and children is no answer here.
			err := f.Write(own, text)
			if err != nil && !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.EBUSY) {
				return err
			}
			if set, perr := setOf(text); perr == nil {
				text = listOf(set)
			} else if err != nil {
				return unix.EINVAL
			} else if text, err = f.Read(own); err != nil {
				return err
			}
		}
		has, err := setIn(above, own)
		if err != nil {
			return err
		}
		if err := f.Keep(f.name, strings.TrimSpace(text)); err != nil {
			// What the host's file had comes back from what is kept.
			return errors.Join(err, settle(f, f.name, own, has))
		}
		return settle(f, f.name, own, has)
	}
}

// settle gives a cgroup, and those below it, what they want of the parent's set: first all more, then all less, so that
// a set is within its parent's at each step.
func settle(c Cgroup, name, own string, parents []uint64) error {
	has, err := setIn(c, own)
	if err != nil {
		return err
	}
	kept, err := c.Kept(name)
	if err != nil {
		return err
	}
	wants, err := setOf(kept)
	if err != nil {
		return err
	}
	gets := slices.DeleteFunc(wants, func(n uint64) bool { return !slices.Contains(parents, n) })
	if len(gets) == 0 {
		gets = parents
	}
	most := union(has, gets)
	if len(most) > len(has) {
		if err := c.Write(own, listOf(most)); err != nil {
			return err
		}
	}
	children, err := c.Below()
	if err != nil {
		return err
	}
	for _, child := range children {
		if err := settle(child, name, own, gets); err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	if len(most) > len(gets) {
		return c.Write(own, listOf(gets))
	}
	return nil
}

func union(a, b []uint64) []uint64 {
	all := slices.Concat(a, b)
	slices.Sort(all)
	return slices.Compact(all)
}

// listOf writes a set as the kernel does, as in 0-3,7.
func listOf(set []uint64) string {
	set = union(set, nil)
	var parts []string
	for i := 0; i < len(set); {
		last := i
		for last+1 < len(set) && set[last+1] == set[last]+1 {
			last++
		}
		part := decimal(set[i])
		if last > i {
			part += "-" + decimal(set[last])
		}
		parts, i = append(parts, part), last+1
	}
	return strings.Join(parts, ",")
}
