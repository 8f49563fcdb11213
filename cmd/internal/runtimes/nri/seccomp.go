package nri

import (
	"slices"

	"github.com/containerd/nri/pkg/api"
)

// The seccomp policy of a container, in NRI since 0.10 (containerd 2.2, CRI-O 1.34): the runtime sends the plugin its
// policy, and the plugin's answer replaces it. An older runtime sends none and ignores an answer.

// Actions of a policy (config-linux.md of the OCI runtime specification).
const (
	allow  = "SCMP_ACT_ALLOW"
	refuse = "SCMP_ACT_ERRNO"
	ask    = "SCMP_ACT_NOTIFY"
	enosys = 38
)

// asked are the calls that the daemon answers, if the policy allows them. An allowed clone3, refused, becomes ENOSYS:
// with CLONE_INTO_CGROUP it accepts no directory of a view, and programs fall back to clone for no other errno.
var asked = []string{"statfs", "statfs64", "fstatfs", "fstatfs64", "mount", "fsopen"}

const refused = "clone3"

// notifying returns a container's policy with a daemon's socket as its listener. It allows nothing new. nil leaves the
// container's policy as it is: the runtime sent none, or it has a listener already.
func notifying(c *api.LinuxContainer, socket string) *api.LinuxSeccomp {
	old, profile := c.GetSeccompPolicy(), c.GetSeccompProfile()
	switch {
	case old == nil && profile != nil && profile.GetProfileType() == api.SecurityProfile_UNCONFINED:
		old = &api.LinuxSeccomp{DefaultAction: allow}
	case old == nil || old.GetListenerPath() != "":
		return nil
	}
	p := &api.LinuxSeccomp{
		DefaultAction: old.GetDefaultAction(), DefaultErrno: old.GetDefaultErrno(), Architectures: old.GetArchitectures(),
		Flags: old.GetFlags(), ListenerPath: socket,
	}
	mentioned := map[string]bool{}
	var refuses bool
	for _, r := range old.GetSyscalls() {
		var rest, asks []string
		for _, name := range r.GetNames() {
			mentioned[name] = true
			switch {
			case r.GetAction() == allow && slices.Contains(asked, name):
				asks = append(asks, name)
			case r.GetAction() == allow && name == refused:
				refuses = true
			default:
				rest = append(rest, name)
			}
		}
		p.Syscalls = appendRule(p.Syscalls, r, r.GetAction(), rest)
		p.Syscalls = appendRule(p.Syscalls, r, ask, asks)
	}
	if p.DefaultAction == allow {
		asks := slices.DeleteFunc(slices.Clone(asked), func(name string) bool { return mentioned[name] })
		p.Syscalls = appendRule(p.Syscalls, nil, ask, asks)
		refuses = refuses || !mentioned[refused]
	}
	if refuses {
		rule := &api.LinuxSyscall{Names: []string{refused}, Action: refuse, ErrnoRet: api.UInt32(enosys)}
		p.Syscalls = append(p.Syscalls, rule)
	}
	return p
}

// appendRule adds a rule for calls, if any, with the conditions of another rule.
func appendRule(rules []*api.LinuxSyscall, like *api.LinuxSyscall, action string, names []string) []*api.LinuxSyscall {
	if len(names) == 0 {
		return rules
	}
	rule := &api.LinuxSyscall{Names: names, Action: action, Args: like.GetArgs()}
	if action == like.GetAction() {
		rule.ErrnoRet = like.GetErrnoRet()
	}
	return append(rules, rule)
}
