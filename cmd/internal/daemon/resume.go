package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/attach"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/holder"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/views"
	"github.com/vcgroupfs/vcgroupfs/fs/state"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// resume resumes every guest of the arena. It ends a guest that it cannot resume, so that no one waits for it.
func (d *Daemon) resume(held map[int]map[uint64]int) {
	pauseForTest()
	goOn := func(r *state.Region, rec record, resume func(*state.Region, record, map[uint64]int) error) {
		of := held[r.Index()]
		delete(held, r.Index())
		// An earlier version allocated the region.
		if r.Label() == "" {
			r.SetLabel(rec.label())
		}
		if err := resume(r, rec, of); err != nil {
			d.log.WithError(err).Error("a guest ends with the worker that served it")
		}
		// The descriptors that resume left over.
		for _, fd := range of {
			unix.Close(fd)
		}
	}
	var selves []*state.Region
	for _, r := range d.arena.Regions() {
		rec := recordOf(r)
		if rec.Self {
			selves = append(selves, r)
			continue
		}
		goOn(r, rec, d.resumeGuest)
	}
	// Self comes last: a thread that touches it may belong to one of the guests.
	for _, r := range selves {
		goOn(r, recordOf(r), d.resumeSelf)
	}
	// Descriptors of guests removed while the worker died.
	for region, of := range held {
		for _, fd := range of {
			unix.Close(fd)
		}
		if err := (holder.Keep{Worker: d.worker, Region: region}).Forget(); err != nil {
			d.log.WithError(err).Debug("cannot tell the holder")
		}
	}
	if d.start.Reason == "" {
		return
	}
	took := time.Since(d.start.Died)
	d.metrics.SetResume(took)
	d.log.WithField("took", took).Warnf("serving goes on after %s", d.start.Reason)
}

// clearViews unmounts the views left by an earlier daemon. Its holder died too, so no worker can resume its guests.
func (d *Daemon) clearViews() {
	if d.start.Restarts > 0 || d.start.Reason != "" {
		return
	}
	if err := attach.ClearDeadViews(d.viewsDir(), d.log); err != nil {
		d.log.WithError(err).Warn("cannot look for views that a daemon before this one has left")
	}
}

// recordOf decodes a region's record; empty if it cannot.
func recordOf(r *state.Region) record {
	var rec record
	if json.Unmarshal(r.Config(), &rec) != nil {
		return record{}
	}
	return rec
}

// resumeGuest resumes one guest. It removes the descriptors that it uses from held.
func (d *Daemon) resumeGuest(r *state.Region, rec record, held map[uint64]int) (err error) {
	g := d.newGuest(rec)
	g.region, g.at.View = r, mountOf(r)
	device, ok := held[holder.DeviceKey]
	switch {
	case rec.Name == "":
		err = errors.New("its record makes no sense to this program")
	case !r.Finished():
		err = errors.New("it was being set up")
	case !ok:
		err = errors.New("its connection was not kept")
	default:
		err = d.goOn(g, device, held)
	}
	if err == nil {
		return nil
	}
	d.abandon(g, held)
	return fmt.Errorf("cannot go on with guest %s: %v", rec.Name, err)
}

// goOn serves a guest again.
func (d *Daemon) goOn(g *guest, device int, held map[uint64]int) error {
	p, err := d.parsePolicy(g.record.Spec)
	if err != nil {
		return err
	}
	g.policy = p
	boundaries, err := d.reopen(g.record.Boundaries)
	if err != nil {
		return err
	}
	delete(held, holder.DeviceKey)
	file := os.NewFile(uintptr(device), "fuse")
	s, err := views.NewViewOf(d.viewConfig(g, file, held), boundaries)
	file.Close()
	if err != nil {
		return err
	}
	d.mu.Lock()
	d.guests[g.record.Name] = g
	d.mu.Unlock()
	if err := s.View.Resend(); err != nil {
		g.log.WithError(err).Error("cannot have the kernel send again what was not answered")
	}
	g.serving.Store(s)
	d.begin(g, s)
	go s.View.Wake()
	return nil
}

// reopen opens boundaries by their permanent names.
func (d *Daemon) reopen(ids []boundaryID) (all []*host.Boundary, err error) {
	for _, id := range ids {
		t := d.treeNamed(id.Tree)
		if t == nil {
			views.CloseBoundaries(all)
			return nil, fmt.Errorf("the host has no hierarchy %s any more", id.Tree)
		}
		b, err := t.BoundaryByID(id.ID, id.Path)
		if err != nil {
			views.CloseBoundaries(all)
			return nil, fmt.Errorf("its boundary in the hierarchy %s is gone: %v", t, err)
		}
		all = append(all, b)
	}
	return all, nil
}

func (d *Daemon) treeNamed(name string) *host.Hierarchy {
	for _, t := range d.host.Hierarchies() {
		if t.String() == name {
			return t
		}
	}
	return nil
}

// abandon ends a guest that cannot be served. It closes the connection first, so that an access to the mount does not
// wait.
func (d *Daemon) abandon(g *guest, held map[uint64]int) {
	if err := d.keep(g).Forget(); err != nil {
		d.log.WithError(err).Debug("cannot tell the holder")
	}
	for key, fd := range held {
		unix.Close(fd)
		delete(held, key)
	}
	if err := g.at.Unmount(); err != nil {
		d.log.Warn(err)
	}
	g.region.Release()
	if g.record.Name != "" {
		const reason = "its boundary is gone, or it was not set up yet"
		g.log.WithField("reason", reason).Warn("the guest is gone")
		d.hub.Publish(api.Event{Time: time.Now(), Kind: api.EventGone, Guest: g.record.Name, Reason: reason})
	}
}
