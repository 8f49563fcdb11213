package daemon

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/attach"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/holder"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/views"
	"github.com/vcgroupfs/vcgroupfs/fs/state"
)

// resume resumes every guest of the arena. It ends a guest that it cannot resume, so that no one waits for it.
func (d *Daemon) resume(held map[int]map[uint64]int) {
	pauseForTest()
	goOn := func(r *state.Region, label string, resume func(held map[uint64]int) error) {
		of := held[r.Index()]
		delete(held, r.Index())
		// An earlier version allocated the region.
		if r.Label() == "" {
			r.SetLabel(label)
		}
		if err := resume(of); err != nil {
			d.log.WithError(err).Error("a guest ends with the worker that served it")
		}
		// The descriptors that resume left over.
		for _, fd := range of {
			unix.Close(fd)
		}
	}
	// Self comes last: a thread that touches it may belong to one of the guests.
	var later []func()
	for _, r := range d.worker.Arena.Regions() {
		rec, self := decode(r.Config())
		if self != nil {
			later = append(later, func() {
				goOn(r, self.label(), func(of map[uint64]int) error { return d.self.resume(r, self, of) })
			})
			continue
		}
		goOn(r, rec.label(), func(of map[uint64]int) error { return d.making.resume(r, rec, of) })
	}
	for _, resumeSelf := range later {
		resumeSelf()
	}
	// Descriptors of guests removed while the worker died.
	for region, of := range held {
		for _, fd := range of {
			unix.Close(fd)
		}
		d.making.keepers.forget(region, d.log)
	}
	d.told.resumed(d.start.Died)
}

// clearViews unmounts the views left by an earlier daemon. Its holder died too, so no worker can resume its guests.
func (d *Daemon) clearViews() {
	if d.start.Restarts > 0 || d.start.Reason != "" {
		return
	}
	if err := attach.ClearDeadViews(d.paths.views(), d.log); err != nil {
		d.log.WithError(err).Warn("cannot look for views that a daemon before this one has left")
	}
}

// resume resumes one guest. It removes the descriptors that it uses from held.
func (m *making) resume(r *state.Region, rec record, held map[uint64]int) (err error) {
	g := m.newGuest(rec)
	g.region, g.at.View = r, mountOf(r)
	device, ok := held[holder.DeviceKey]
	switch {
	case rec.Name == "":
		err = errors.New("its record makes no sense to this program")
	case !r.IsSetUp():
		err = errors.New("it was being set up")
	case !ok:
		err = errors.New("its connection was not kept")
	default:
		err = m.goOn(g, device, held)
	}
	if err == nil {
		return nil
	}
	abandon(m.told.log, m.keepers, r, &g.at, held)
	if rec.Name != "" {
		m.told.ended(g, api.EventGone, "its boundary is gone, or it was not set up yet")
	}
	return fmt.Errorf("cannot go on with guest %s: %v", rec.Name, err)
}

// goOn serves a guest again.
func (m *making) goOn(g *guest, device int, held map[uint64]int) error {
	p, err := m.policies.of(g.record.Spec)
	if err != nil {
		return err
	}
	g.policy = p
	boundaries, err := reopen(m.host, g.record.Boundaries)
	if err != nil {
		return err
	}
	delete(held, holder.DeviceKey)
	file := os.NewFile(uintptr(device), "fuse")
	s, err := views.NewViewOf(m.viewConfig(g, file, held), boundaries)
	file.Close()
	if err != nil {
		return err
	}
	m.table.put(g)
	if err := s.View.Resend(); err != nil {
		g.log.WithError(err).Error("cannot have the kernel send again what was not answered")
	}
	m.table.serve(g, s)
	m.begin(g, s)
	g.mu.Lock()
	m.lookout.follow(g, s)
	g.mu.Unlock()
	m.lookout.mark(g)
	go s.View.Wake()
	return nil
}
