// Command generate makes the seccomp profiles in packaging/seccomp from the runtimes' own defaults:
//
//	generate LISTENERPATH <default.json >profile.json
//
// "make seccomp" calls it. Of the default nothing is changed but this: statfs and fstatfs ask the listener, instead
// of being allowed; mount and fsopen do where the default allows them; clone3 is ENOSYS, for with CLONE_INTO_CGROUP
// it takes no directory of a view, and programs fall back to clone for no other errno.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
)

const (
	allow  = "SCMP_ACT_ALLOW"
	refuse = "SCMP_ACT_ERRNO"
	ask    = "SCMP_ACT_NOTIFY"
	enosys = 38
)

var (
	always   = []string{"fstatfs", "fstatfs64", "statfs", "statfs64"} // ask
	likewise = []string{"fsopen", "mount"}                            // ask where they are allowed
	refused  = []string{"clone3"}
)

// rule is one of a profile; what this program does not look at stays as it is.
type rule map[string]any

func (r rule) names() (names []string) {
	list, _ := r["names"].([]any)
	for _, n := range list {
		if name, ok := n.(string); ok {
			names = append(names, name)
		}
	}
	return names
}

// only is a rule of the same conditions for other calls.
func (r rule) only(action string, names []string) rule {
	other := rule{}
	for key, value := range r {
		other[key] = value
	}
	delete(other, "comment")
	other["names"], other["action"] = names, action
	return other
}

func main() {
	if err := generate(); err != nil {
		fmt.Fprintln(os.Stderr, "cannot make a profile:", err)
		os.Exit(1)
	}
}

func generate() error {
	if len(os.Args) != 2 {
		return fmt.Errorf("usage: generate LISTENERPATH <default.json >profile.json")
	}
	var profile map[string]any
	if err := json.NewDecoder(os.Stdin).Decode(&profile); err != nil {
		return err
	}
	rules, _ := profile["syscalls"].([]any)
	changed, err := change(rules)
	if err != nil {
		return err
	}
	profile["syscalls"], profile["listenerPath"] = changed, os.Args[1]
	out := json.NewEncoder(os.Stdout)
	out.SetIndent("", "\t")
	return out.Encode(profile)
}

// change is what becomes of a default's rules.
func change(rules []any) (changed []rule, err error) {
	ours := slices.Concat(always, likewise, refused)
	asks := []rule{
		{"names": always, "action": ask, "comment": "vcgroupfs answers for views"},
		{"names": refused, "action": refuse, "errnoRet": enosys, "comment": "views are no target of CLONE_INTO_CGROUP"},
	}
	for _, x := range rules {
		values, ok := x.(map[string]any)
		if !ok || len(rule(values).names()) == 0 {
			return nil, fmt.Errorf("a rule of the default has no names: %v", x)
		}
		r := rule(values)
		var rest, asked []string
		for _, name := range r.names() {
			switch {
			case !slices.Contains(ours, name):
				rest = append(rest, name)
			case slices.Contains(likewise, name) && r["action"] == allow:
				asked = append(asked, name)
			case slices.Contains(likewise, name):
				rest = append(rest, name)
			}
		}
		if len(rest) > 0 {
			r["names"] = rest
			changed = append(changed, r)
		}
		if len(asked) > 0 {
			asks = append(asks, r.only(ask, asked))
		}
	}
	return append(changed, asks...), nil
}
