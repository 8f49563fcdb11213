package api

import (
	"context"

	"github.com/vcgroupfs/vcgroupfs/policy"
)

// Backend does what the routes ask for. An error is answered by its kind (package fault). All methods may be called
// from any goroutine.
type Backend interface {
	Info() Info
	Guests() []Guest
	Guest(name string) (Guest, error)
	// Add makes a guest for its maker; p is the spec's policy. One that is there with the same spec is no error, and
	// made is false.
	Add(ctx context.Context, name string, spec GuestSpec, p *policy.Policy, by Maker) (g Guest, made bool, err error)
	// Remove takes a guest away: fault.NotFound when there is none, fault.Conflict when it is another maker's or
	// frozen. By force it is taken away all the same, and its processes go on.
	Remove(ctx context.Context, name string, by Maker, force bool) error
	Tree(name string) (Cgroup, error)
	Top() []Usage
	Set(name string, limits []Limit) ([]Change, error)
	// Attach attaches the view in the guest's mount namespace anew, unless it is there; fault.Invalid for a guest
	// without Into.
	Attach(name string) error
	Freeze(ctx context.Context, name string) error
	Thaw(ctx context.Context, name string) error
	Kill(ctx context.Context, name string) error
	// Subscribe gives events until cancel is called; guest "" is all. A subscriber that does not keep up misses some, and is
	// told how many by an EventDropped.
	Subscribe(guest string) (events <-chan Event, cancel func())
	// Upgrade goes on with another program; it returns when the new worker serves, or says why the old one stays.
	Upgrade(ctx context.Context, program string) error
	// ShowType has statfs answer for a file system that a process, by the daemon's pid numbers, has open;
	// fault.Unsupported where nothing answers for any.
	ShowType(ctx context.Context, pid int, r TypeRequest) error
	// InGuest says whether a process, by the daemon's pid numbers, is inside a guest's boundary.
	InGuest(pid int) bool
}
