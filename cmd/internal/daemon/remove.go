package daemon

import (
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/cgroups"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
)

// A guest's name belongs to its maker. A container whose creation failed for that very name runs a hook, which must not
// end the other's view. A guest whose process has ended is about to be removed anyway, so any caller may remove it.

// endedWait bounds the wait for a container's process during its last hook: its runtime has killed the process by then.
const endedWait = 2 * time.Second

// byName removes the guest of a name. Nothing of it is left on return, even if a set-up or removal was under way; but
// the last hook of a container whose process has ended returns at once, because the runtime waits for it and needs
// nothing more of the guest. A new guest of the name waits for the end of the removal (table.reserve). fault.NotFound,
// fault.Conflict if another maker owns it, fault.Busy while its process lives.
func (x *removing) byName(ctx context.Context, name string, by api.Maker, force bool) error {
	g := x.table.named(name)
	if g == nil {
		return notFound(name)
	}
	if err := x.mayRemove(ctx, g, by, force); err != nil {
		return err
	}
	if force {
		g.thaw(ctx)
	} else if by.By != api.ByHand && g.record.Spec.Pid != 0 && ended(g.record) {
		go x.processEnded(g)
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.gone {
		return notFound(name)
	}
	x.noteUnmounted(g, g.served())
	// The unmount comes first: if it fails, the guest stays as it was.
	if err := g.at.Unmount(); err != nil {
		return fmt.Errorf("cannot remove guest %s: %v", name, err)
	}
	x.removeLocked(g, api.EventRemoved, "")
	return nil
}

// mayRemove returns an error if the caller may not remove the guest.
func (x *removing) mayRemove(ctx context.Context, g *guest, by api.Maker, force bool) error {
	name, maker := g.record.Name, g.record.maker()
	switch {
	case maker.By == api.ByDeclared:
		return fault.New(fault.Conflict,
			"cannot remove guest %s: a file of %s declares it; remove the file", name, x.declarations)
	case force, g.record.Spec.Pid != 0 && ended(g.record):
		return nil
	case by.By != api.ByHand && by != maker && !g.record.makerless():
		return fault.New(fault.Conflict,
			"cannot remove guest %s: it is not the one of this container; it was made by %s", name, maker)
	case by.By != api.ByHand:
		return g.awaitEnd(ctx)
	case by.By != maker.By:
		return fault.New(fault.Conflict,
			"cannot remove guest %s: it was made by %s, which removes it; to end its view all the same give "+
				"--force", name, maker)
	case g.frozen():
		return fault.New(fault.Conflict,
			"cannot remove guest %s: it is frozen, and would stay so; thaw it first (vcgroupfs guest thaw "+
				"%s), or give --force", name, name)
	}
	return nil
}

// awaitEnd waits for the end of a container's process. If the process lives on, the last hook belongs to another
// container of the same name and bundle.
func (g *guest) awaitEnd(ctx context.Context) error {
	if g.record.Spec.Pid == 0 {
		return nil
	}
	fd, err := unix.PidfdOpen(g.record.Spec.Pid, 0)
	if err != nil {
		return nil
	}
	process := os.NewFile(uintptr(fd), "pidfd")
	defer process.Close()
	for until := time.Now().Add(endedWait); !hasEnded(process.Fd()) && !ended(g.record); time.Sleep(time.Millisecond) {
		if ctx.Err() != nil || time.Now().After(until) {
			return fault.New(fault.Busy,
				"cannot remove guest %s: its process %d lives; the guest goes when that ends",
				g.record.Name, g.record.Spec.Pid)
		}
	}
	return nil
}

// frozen reports that a guest's processes are stopped.
func (g *guest) frozen() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	b := g.boundaries()
	return !g.gone && b != nil && cgroups.FiguresOf(b).Frozen
}

// thaw resumes the processes of a guest before a forced removal: without a guest to name, nothing could thaw them
// later.
func (g *guest) thaw(ctx context.Context) {
	if !g.frozen() {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if b := g.boundaries(); b != nil {
		if err := cgroups.Thaw(ctx, b); err != nil {
			g.log.WithError(err).Warn("the guest is removed by force, and its processes stay frozen")
		}
	}
}
