package early

import (
	"os"
	"path"
)

// Socket is the daemon's default socket, that of package api.
const Socket = "/run/vcgroupfs/serve/api.sock"

// options are the options of a hook.
type options struct {
	socket, into, madeBy, controllers, layout, policy string
	stack, noStack, tmpfs, procCgroups                bool
}

// parse parses the options of a hook. Not ok for what it does not know, for an empty value, and for an option that is
// given twice.
func parse(words []string) (o options, ok bool) {
	o.socket = os.Getenv("VCGROUPFS_SOCKET")
	seen := map[string]bool{}
	for len(words) > 0 {
		name, value, inWord := cut(words[0], '=')
		words = words[1:]
		if seen[name] {
			return o, false
		}
		seen[name] = true
		if set := o.flag(name); set != nil && !inWord {
			*set = true
			continue
		}
		set := o.text(name)
		if set == nil {
			return o, false
		}
		if !inWord && len(words) > 0 {
			value, words = words[0], words[1:]
		}
		if value == "" || value[0] == '-' {
			return o, false
		}
		*set = value
	}
	o.socket = or(o.socket, Socket)
	o.into = or(o.into, "/sys/fs/cgroup")
	o.madeBy = or(o.madeBy, "hook")
	o.layout = or(o.layout, "auto")
	return o, !(o.stack && o.noStack) && isClean(o.into)
}

// flag returns the option without a value that has a name, nil for none.
func (o *options) flag(name string) *bool {
	switch name {
	case "--stack":
		return &o.stack
	case "--no-stack":
		return &o.noStack
	case "--tmpfs":
		return &o.tmpfs
	case "--proc-cgroups":
		return &o.procCgroups
	}
	return nil
}

// text returns the option with a value that has a name, nil for none.
func (o *options) text(name string) *string {
	switch name {
	case "--socket":
		return &o.socket
	case "--into":
		return &o.into
	case "--made-by":
		return &o.madeBy
	case "--controllers":
		return &o.controllers
	case "--layout":
		return &o.layout
	case "--policy":
		return &o.policy
	}
	return nil
}

func cut(word string, at byte) (before, after string, found bool) {
	for i := range len(word) {
		if word[i] == at {
			return word[:i], word[i+1:], true
		}
	}
	return word, "", false
}

func or(a, b string) string {
	if a == "" {
		return b
	}
	return a
}

// isClean reports that a path is absolute, below the root and in canonical form.
func isClean(p string) bool { return len(p) > 1 && p[0] == '/' && path.Clean(p) == p }
