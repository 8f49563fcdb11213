package fs

import (
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// delegate answers a write to cgroup.subtree_control. A hidden controller does not exist for the guest: enabling it is
// what the kernel says of one that is not available, ENOENT, and disabling it has no effect.
func (v *View) delegate(cancel <-chan struct{}, h *handle, data []byte) error {
	tokens, err := v.parseSubtree(data)
	if err != nil {
		return err
	}
	if len(tokens) == 0 {
		return nil
	}
	enables := slices.ContainsFunc(tokens, func(s string) bool { return s[0] == '+' })
	if h.tree.isRoot(h.dir) && enables {
		if err := h.tree.vacate(cancel); err != nil {
			return err
		}
	}
	d, err := h.tree.acquire(h.dir)
	if err != nil {
		return unix.ENODEV
	}
	defer d.Release()
	h.tree.expected.add(d.ID(), subtreeFile)
	if err = h.command([]byte(strings.Join(tokens, " "))); err != nil {
		h.tree.expected.take(d.ID(), subtreeFile)
		return err
	}
	v.forgetFiles(cancel, h.tree, d)
	return nil
}

// parseSubtree reads "+a -b" as cgroup_subtree_control_write does: only blanks separate, EINVAL for a word without a sign
// or with a name that no controller of the kernel has. It returns the words that concern permitted controllers.
func (v *View) parseSubtree(data []byte) ([]string, error) {
	var out []string
	for word := range strings.SplitSeq(strings.TrimSpace(untilNUL(data)), " ") {
		if word == "" {
			continue
		}
		name := word[1:]
		if (word[0] != '+' && word[0] != '-') || !hierarchy.UnifiedController(name) {
			return nil, unix.EINVAL
		}
		if v.policy.Permits(name) {
			out = append(out, word)
		} else if word[0] == '+' {
			return nil, refuse(unix.ENOENT, "hidden controller")
		}
	}
	return out, nil
}
