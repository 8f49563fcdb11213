// Package runtimes holds what the program knows of container runtimes: one list, with a row for each.
//
// # Words
//
// A runtime is a program that makes containers. A hook is a command of ours that a runtime calls when it has made a
// container, and again when the container has ended. A pattern tells the cgroups of containers by their paths. The
// listener of a container is the descriptor that delivers the system calls which its seccomp profile stops.
//
// # What always holds
//
// The readers of the list ("hook", "serve --self", "doctor") tell no runtime from another. What only one runtime says
// or expects is a field of its row, or a function of the row's hook.
//
// The package reads what a runtime says. It adds no guest, and changes nothing on the host.
package runtimes

import "slices"

// Runtime is a row of the list. A field that does not apply is empty.
type Runtime struct {
	Name       string     // as in documents
	Program    string     // found in PATH where the runtime is installed
	How        string     // how it gives a container a view, in a few words
	Hook       *Hook      // which it calls, by itself, by CDI or by NRI; runtimes may share one
	Containers Containers // the cgroups of its containers, where no parent is configured
}

// All returns the list.
func All() []Runtime { return slices.Clone(table) }

// Hooks returns the hooks of all runtimes, each once.
func Hooks() (hooks []*Hook) {
	for _, r := range table {
		if r.Hook != nil && !slices.Contains(hooks, r.Hook) {
			hooks = append(hooks, r.Hook)
		}
	}
	return hooks
}

// DefaultContainers returns the patterns of all runtimes, and the names of the runtimes that have one.
func DefaultContainers() (patterns Containers, names []string) {
	for _, r := range table {
		if len(r.Containers) > 0 {
			patterns, names = append(patterns, r.Containers...), append(names, r.Name)
		}
	}
	return patterns, names
}
