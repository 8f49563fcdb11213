package api

import (
	"context"

	"github.com/vcgroupfs/vcgroupfs/policy"
)

// Backend implements the routes. The kind of an error determines the answer (package fault). Any goroutine may call any
// method.
type Backend interface {
	// Info describes the daemon.
	Info() Info
	// Guests lists the guests by name.
	Guests() []Guest
	// Guest returns a guest. fault.NotFound if there is none, as for all methods with a name but Add.
	Guest(name string) (Guest, error)
	// Add adds a guest for its maker; p is the spec's policy. An existing guest with the same spec is no error: then made
	// is false.
	Add(ctx context.Context, name string, spec GuestSpec, p *policy.Policy, by Maker) (g Guest, made bool, err error)
	// OfRuntime returns a spec with OfRuntime as one without it, and its policy. caller is the process that asks, by the
	// daemon's pid numbers. The error says what the runtime has not made.
	OfRuntime(name string, spec GuestSpec, p *policy.Policy, caller int) (GuestSpec, *policy.Policy, error)
	// Remove removes a guest: fault.NotFound if there is none, fault.Conflict if it is another maker's or frozen. force
	// removes it nevertheless, and its processes go on.
	Remove(ctx context.Context, name string, by Maker, force bool) error
	// Top returns each guest's present usage.
	Top() []Usage
	// Set sets limits of a guest and returns all changes; fault.Invalid, fault.Unsupported or fault.Failed as by package
	// cgroups.
	Set(name string, limits []Limit) ([]Change, error)
	// Do does what a verb says to a guest. The answer is of the type that the table of verbs names.
	Do(ctx context.Context, verb Verb, name string) (answer any, err error)
	// Subscribe returns a stream of events until cancel is called; guest "" is all. A slow subscriber misses some, and
	// gets their count in an EventDropped.
	Subscribe(guest string) (events <-chan Event, cancel func())
	// Upgrade replaces the worker by another program's. It returns once the new worker serves, or with the reason why the
	// old one stays.
	Upgrade(ctx context.Context, program string) error
	// ShowType makes statfs answer for a file system that a process, by the daemon's pid numbers, has open;
	// fault.Unsupported without BPF.
	ShowType(ctx context.Context, pid int, r TypeRequest) error
	// InGuest reports that a process, by the daemon's pid numbers, is inside a guest's boundary.
	InGuest(pid int) bool
}
