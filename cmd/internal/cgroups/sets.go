package cgroups

import (
	"math/big"
	"strconv"
	"strings"

	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// maxMember bounds the numbers of processors and memory nodes.
const maxMember = 1 << 16

// parseSet reads a list of numbers and ranges as cpuset shows it, "0-3,7". False for any other form, such as the
// strides that a write may have: then no room is made.
func parseSet(text string) (*big.Int, bool) {
	set := new(big.Int)
	for part := range strings.SplitSeq(strings.TrimSpace(text), ",") {
		if part == "" {
			continue
		}
		low, high, ranged := strings.Cut(part, "-")
		if !ranged {
			high = low
		}
		from, err1 := strconv.ParseUint(low, 10, 32)
		to, err2 := strconv.ParseUint(high, 10, 32)
		if err1 != nil || err2 != nil || from > to || to >= maxMember {
			return nil, false
		}
		for i := from; i <= to; i++ {
			set.SetBit(set, int(i), 1)
		}
	}
	return set, true
}

// formatSet returns a list that cpuset accepts. The empty set is a newline, because a write of nothing would not reach
// the kernel's handler.
func formatSet(set *big.Int) string {
	var parts []string
	for i := 0; i < set.BitLen(); i++ {
		if set.Bit(i) == 0 {
			continue
		}
		from := i
		for set.Bit(i+1) == 1 {
			i++
		}
		part := strconv.Itoa(from)
		if i > from {
			part += "-" + strconv.Itoa(i)
		}
		parts = append(parts, part)
	}
	if len(parts) == 0 {
		return "\n"
	}
	return strings.Join(parts, ",")
}

// contains reports that a set includes another one.
func contains(set, part *big.Int) bool { return new(big.Int).AndNot(part, set).Sign() == 0 }

// fitSets makes the cpusets below a cgroup subsets of want. A cpuset that would become empty gets all of want, as on
// v2: with processes in it, it cannot be empty. want may exceed the present set of the cgroup above. Then that one is
// widened until the ones below are written, and narrowed afterwards, in its own turn or by the write that needs the
// room.
func (r *room) fitSets(d *host.Dir, want *big.Int, depth int) error {
	text, err := read(d, r.file)
	if err != nil {
		return err
	}
	have, ok := parseSet(text)
	if !ok {
		return nil
	}
	widened := contains(have, want)
	return r.each(d, depth, func(child *host.Dir) error {
		text, err := read(child, r.file)
		if err != nil {
			return err
		}
		mine, ok := parseSet(text)
		if !ok || contains(want, mine) {
			// Then all below are subsets too.
			return nil
		}
		less := new(big.Int).And(mine, want)
		if less.Sign() == 0 {
			less = want
		}
		if !widened && !contains(have, less) {
			if err := r.write(d, r.file, formatSet(new(big.Int).Or(have, want))); err != nil {
				return err
			}
			widened = true
		}
		if err := r.fitSets(child, less, depth+1); err != nil {
			return err
		}
		return r.write(child, r.file, formatSet(less))
	})
}
