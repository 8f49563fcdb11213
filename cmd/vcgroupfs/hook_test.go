package main

import (
	"strings"
	"testing"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/spec"
)

func TestGuestNameOf(t *testing.T) {
	long := strings.Repeat("x", 65)
	if spec.NameOf("web-1") != "web-1" || spec.NameOf(long) == long || spec.NameOf(long) == spec.NameOf(long+"x") || spec.NameOf("a/b") == spec.NameOf("a.b") {
		t.Error(spec.NameOf("web-1"), spec.NameOf(long), spec.NameOf("a/b"))
	}
	for _, id := range []string{"", "../x", "tasks", "cgroup.x", strings.Repeat("ü", 40)} {
		if err := checkName(spec.NameOf(id)); err != nil {
			t.Errorf("%q: %v", id, err)
		}
	}
}

// TestHookUsage: what no runtime would say is refused before the daemon is asked.
func TestHookUsage(t *testing.T) {
	for _, c := range []struct {
		args string
		says string
	}{
		{"hook nonsense", "allowed: oci, lxc"}, {"hook help", "allowed: oci, lxc"}, {"hook h", "allowed: oci, lxc"}, {"hook lxc", "LXC_NAME"},
		{"hook oci poststop", "no argument"}, {"hook oci help", "no argument"}, {"hook lxc h", "no argument"}, {"hook oci", "it is empty"}, {"hook oci --nonsense", "vcgroupfs hook oci --help"},
	} {
		var out, said strings.Builder
		if got := execute(append([]string{"vcgroupfs"}, strings.Fields(c.args)...), &out, &said); got != 2 || !strings.Contains(said.String(), c.says) {
			t.Errorf("%s: %d, %q; want 2 and %q", c.args, got, said.String(), c.says)
		}
	}
	for _, group := range []string{"hook", "guest", "policy"} {
		if got, out, _ := try(group); got != 2 || !strings.Contains(out, "COMMANDS:") {
			t.Errorf("%s alone: %d, %q; want 2 and its commands", group, got, out)
		}
	}
}

// TestHelp: help is told by one command alone, so that no other takes a word of its user's for it.
func TestHelp(t *testing.T) {
	for args, want := range map[string]string{
		"help": "Exit codes:", "help guest": "COMMANDS:", "help guest add": "--boundary PATH", "guest add --help": "--boundary PATH", "help hook oci": "--into DIR",
	} {
		got, out, _ := try(strings.Fields(args)...)
		if got != 0 || !strings.Contains(out, want) || strings.Contains(out, "help, h") {
			t.Errorf("%s: %d, %q; want %q", args, got, out, want)
		}
	}
	for args, want := range map[string]string{"help nonsense": `"nonsense"; allowed: run,`, "help guest nonsense": `guest "nonsense"; allowed: add,`, "guest rm h --socket /nowhere": "daemon", "guest ls help": "no argument"} {
		if got, out, said := try(strings.Fields(args)...); got == 0 || out != "" || !strings.Contains(said, want) {
			t.Errorf("%s: %d, %q, %q; want a failure that says %q", args, got, out, said, want)
		}
	}
}
