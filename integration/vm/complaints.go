package main

import (
	"regexp"
	"strings"
)

// complaint matches console lines by which the guest's kernel reports a fault: WARN() and BUG() (lib/bug.c and
// kernel/panic.c), oopses, the hung-task and lock-up detectors, RCU stalls, refcount_t and lockdep. It leaves out
// reports that a test may well cause, such as that of a memory cgroup out of memory.
var complaint = regexp.MustCompile(`^\[ *[0-9.]+\] (.*\bBUG: |WARNING: |.*\bOops: |.*general protection fault|` +
	`Kernel panic|INFO: task .* blocked for more than|.*INFO: rcu_\w+ .*detected|.*refcount_t: |INFO: possible |` +
	`.*Unable to handle kernel |.*stack-protector: )`)

// complaints returns the console's lines that fail a run, at most ten of them.
func complaints(console string) []string {
	var bad []string
	for line := range strings.Lines(console) {
		line = strings.TrimRight(line, "\r\n")
		if complaint.MatchString(line) && len(bad) < 10 {
			bad = append(bad, line)
		}
	}
	return bad
}
