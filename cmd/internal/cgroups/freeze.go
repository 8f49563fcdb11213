package cgroups

import (
	"context"
	"errors"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// stopWait bounds the wait of Freeze, Thaw and Kill for the guest's tasks if the caller sets no deadline.
const stopWait = 10 * time.Second

// within gives ctx a deadline.
func within(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, stopWait)
}

// await polls ok until it is true. False when the time is over.
func await(ctx context.Context, ok func() bool) bool {
	for pause := time.Millisecond; !ok(); pause = min(2*pause, 50*time.Millisecond) {
		select {
		case <-ctx.Done():
			return false
		case <-time.After(pause):
		}
	}
	return true
}

// Freeze stops all tasks of a guest, and returns when they have stopped. If some do not stop in time, 10 s without a
// deadline of ctx, the guest runs again and the error is fault.Failed. fault.Unsupported if none of the guest's
// hierarchies can freeze, fault.Conflict if the caller is in the guest.
func Freeze(ctx context.Context, bs []*host.Boundary) error {
	brakes, err := brakesOf(bs, "freeze")
	if err != nil {
		return err
	}
	ctx, cancel := within(ctx)
	defer cancel()
	var pulled []brake
	for _, k := range brakes {
		if k.frozen() {
			return nil
		}
	}
	for _, k := range brakes {
		pulled = append(pulled, k)
		err := k.write(true)
		if err == nil && await(ctx, k.frozen) {
			continue
		}
		release(pulled)
		if err != nil {
			return fault.New(fault.Failed, "cannot freeze the guest in the hierarchy %s: %v", k.hier, err)
		}
		return fault.New(fault.Failed,
			"cannot freeze the guest: some of its tasks did not stop in time in the hierarchy %s, so it runs "+
				"on: look with ps for those in state D, which wait for the kernel, and try again", k.hier)
	}
	return nil
}

// Thaw lets a frozen guest run again. A guest that is not frozen is no error. fault.Failed if the guest does not run
// after 10 s, or ctx's deadline: a cgroup above the boundary is frozen. Other errors as for Freeze.
func Thaw(ctx context.Context, bs []*host.Boundary) error {
	brakes, err := brakesOf(bs, "thaw")
	if err != nil {
		return err
	}
	ctx, cancel := within(ctx)
	defer cancel()
	if err := release(brakes); err != nil {
		return fault.New(fault.Failed, "cannot thaw the guest: %v", err)
	}
	for _, k := range brakes {
		if !await(ctx, func() bool { return !k.frozen() }) {
			return fault.New(fault.Failed,
				"cannot thaw the guest: its boundary in the hierarchy %s stays frozen, for a cgroup above is; "+
					"thaw that", k.hier)
		}
	}
	return nil
}

// Kill kills all processes of a guest, also frozen ones, and returns when they are gone. It thaws a frozen guest,
// because v1 keeps frozen processes. fault.Failed if some live after 10 s, or ctx's deadline; fault.Conflict if the
// caller is in the guest.
func Kill(ctx context.Context, bs []*host.Boundary) error {
	if err := refuseOwn(bs, "kill"); err != nil {
		return err
	}
	ctx, cancel := within(ctx)
	defer cancel()
	brakes, _ := brakesOf(bs, "kill")
	var failed error
	done := await(ctx, func() bool {
		for _, b := range thawedFirst(bs, brakes) {
			if err := b.Kill(); err != nil && !gone(err) && !errors.Is(err, unix.EBUSY) {
				failed = err
				return true
			}
		}
		return CountProcesses(bs) == 0
	})
	release(brakes)
	if failed != nil {
		return fault.New(fault.Failed, "cannot kill the guest's processes: %v", failed)
	}
	if !done {
		return fault.New(fault.Failed,
			"cannot kill all of the guest's processes: %d are there still; those in state D wait for the "+
				"kernel, and a frozen cgroup above the boundary keeps them on v1: look with ps, then try again", CountProcesses(bs))
	}
	return nil
}

// thawedFirst orders boundaries for Kill: v2 kills frozen tasks, then v1 thaws the ones that it froze, so that the
// killed tasks in the other hierarchies can end.
func thawedFirst(bs []*host.Boundary, brakes []brake) []*host.Boundary {
	var order []*host.Boundary
	for _, k := range brakes {
		order = append(order, k.b)
	}
	for _, b := range bs {
		if !slices.Contains(order, b) {
			order = append(order, b)
		}
	}
	return order
}

// refuseOwn refuses a guest that contains the caller or its parent: the daemon is two processes.
func refuseOwn(bs []*host.Boundary, verb string) error {
	for _, b := range bs {
		for _, pid := range []int{os.Getpid(), os.Getppid()} {
			if pid <= 0 {
				// The parent is outside the pid namespace.
				continue
			}
			switch inside, err := b.Contains(pid); {
			case errors.Is(err, unix.ESRCH):
			case err != nil:
				return fault.New(fault.Failed,
					"cannot %s the guest: cannot tell whether process %d is in it: %v: try again", verb, pid, err)
			case inside:
				return fault.New(fault.Conflict,
					"cannot %s the guest: process %d, which serves it, is inside its boundary in the "+
						"hierarchy %s: move that process out first", verb, pid, b.Hierarchy())
			}
		}
	}
	return nil
}

// brake freezes a boundary in one hierarchy.
type brake struct {
	hier *host.Hierarchy
	b    *host.Boundary
}

// brakesOf returns the brakes of a guest. The v2 hierarchy comes first: a task frozen by v1 never gets as far as
// freezing for v2 (measured on Linux 6.18; in the other order both report frozen).
func brakesOf(bs []*host.Boundary, verb string) ([]brake, error) {
	if err := refuseOwn(bs, verb); err != nil {
		return nil, err
	}
	var first, then []brake
	for _, b := range bs {
		switch t := b.Hierarchy(); {
		case t.Version == hierarchy.V2 && has(b, "cgroup.freeze"):
			first = append(first, brake{t, b})
		case t.Version == hierarchy.V1 && t.Holds("freezer"):
			then = append(then, brake{t, b})
		}
	}
	all := append(first, then...)
	if len(all) == 0 {
		return nil, fault.New(fault.Unsupported,
			"cannot %s the guest: none of its hierarchies (%s) can: add it again with the controller "+
				"freezer, or with the v2 tree of Linux 5.2 or newer", verb, names(bs))
	}
	return all, nil
}

// release thaws, in the reverse order of brakesOf. It tries all, and returns the first error.
func release(brakes []brake) error {
	var first error
	for i := len(brakes) - 1; i >= 0; i-- {
		if err := brakes[i].write(false); err != nil && first == nil {
			first = err
		}
	}
	return first
}

func (k brake) write(freeze bool) error {
	root, err := k.b.Root()
	if err != nil {
		return err
	}
	defer root.Release()
	switch {
	case k.hier.Version == hierarchy.V2 && freeze:
		return root.WriteFile("cgroup.freeze", []byte("1"))
	case k.hier.Version == hierarchy.V2:
		return root.WriteFile("cgroup.freeze", []byte("0"))
	case freeze:
		return root.WriteFile("freezer.state", []byte("FROZEN"))
	}
	return root.WriteFile("freezer.state", []byte("THAWED"))
}

// frozen reports that every task has stopped. On v1 reading the state makes the kernel check (freezer_read).
func (k brake) frozen() bool {
	root, err := k.b.Root()
	if err != nil {
		return false
	}
	defer root.Release()
	if k.hier.Version == hierarchy.V2 {
		return keyed(root, "cgroup.events", "frozen") == 1
	}
	state, _ := read(root, "freezer.state")
	return state == "FROZEN"
}
