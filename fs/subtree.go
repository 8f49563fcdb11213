package fs

import (
	"cmp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// delegate answers a write to cgroup.subtree_control. It refuses in the kernel's order: malformed text, a removed
// cgroup, an unavailable controller, then the host's errno. A hidden controller does not exist for the guest:
// enabling it is ENOENT, disabling it has no effect.
func (v *View) delegate(cancel <-chan struct{}, h *handle, data []byte) error {
	changes, err := parseSubtree(data)
	if err != nil || slices.ContainsFunc(changes, func(word string) bool { return !v.host.Knows(word[1:]) }) {
		return cmp.Or[error](err, unix.EINVAL)
	}
	d, err := h.acquire()
	if err != nil {
		return unix.ENODEV
	}
	defer d.Release()
	var tokens []string
	for _, word := range changes {
		if v.policy.Permits(word[1:]) {
			tokens = append(tokens, word)
		} else if word[0] == '+' {
			return refuse(unix.ENOENT, "hidden controller")
		}
	}
	if len(tokens) == 0 {
		return nil
	}
	if h.hier.lent != nil {
		return v.delegateLent(cancel, h, d, tokens, func(own []string) error { return v.enable(cancel, h, d, own) })
	}
	return v.enable(cancel, h, d, tokens)
}

// enable has the kernel enable and disable controllers for the children of a cgroup.
func (v *View) enable(cancel <-chan struct{}, h *handle, d *host.Dir, tokens []string) error {
	enables := slices.ContainsFunc(tokens, func(s string) bool { return s[0] == '+' })
	if h.hier.isRoot(h.dir) && enables {
		if err := h.hier.vacate(cancel); err != nil {
			return err
		}
	}
	if gone := disabled(tokens); gone != nil {
		defer v.settling.begin(cancel, &ending{hier: h.hier, controllers: gone})()
	}
	h.hier.expected.add(d.ID(), subtreeFile)
	if err := h.command([]byte(strings.Join(tokens, " "))); err != nil {
		h.hier.expected.remove(d.ID(), subtreeFile)
		return err
	}
	v.forget(cancel, h.hier, d.ID(), v.invalidateFiles)
	return nil
}

// disabled returns the controllers that changes of cgroup.subtree_control disable, or nil.
func disabled(changes []string) (off []string) {
	for _, word := range changes {
		if word[0] == '-' {
			off = append(off, word[1:])
		}
	}
	return off
}

// parseSubtree parses "+a -b" as cgroup_subtree_control_write does, separated by blanks only. EINVAL for a word
// without a sign, or for a name of no kernel controller. The last word for a controller counts.
func parseSubtree(data []byte) ([]string, error) {
	var out []string
	for word := range strings.SplitSeq(strings.TrimSpace(untilNUL(data)), " ") {
		if word == "" {
			continue
		}
		name := word[1:]
		if (word[0] != '+' && word[0] != '-') || !hierarchy.UnifiedController(name) {
			return nil, unix.EINVAL
		}
		out = append(slices.DeleteFunc(out, func(s string) bool { return s[1:] == name }), word)
	}
	return out, nil
}
