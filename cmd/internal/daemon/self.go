package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/attach"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/holder"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/runtimes"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/target"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/views"
	"github.com/vcgroupfs/vcgroupfs/fs/self"
	"github.com/vcgroupfs/vcgroupfs/fs/state"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/policy"
)

// selfDir is self: its directory, its mount, and the containers that touched it.
type selfDir struct {
	d      *Daemon
	rule   runtimes.Containers
	spec   api.GuestSpec  // of the guests to add, without boundary and owner
	policy *policy.Policy // of those guests

	at     attach.Mountpoint
	region *state.Region
	dir    *self.Dir
	served chan struct{} // closed when serving has ended
	ready  chan struct{} // closed when it is mounted and its device is known
	quit   chan struct{} // closed when it is removed

	work  chan struct{} // one slot for each container handled at once
	boxes boxes
}

// selfSpec returns the spec of the guests to add, from the settings.
func (d *Daemon) selfSpec() (spec api.GuestSpec, err error) {
	settings := d.settings.Self
	spec = api.GuestSpec{Controllers: settings.Controllers}
	if settings.Policy == "" {
		return spec, nil
	}
	text, err := os.ReadFile(settings.Policy)
	if err != nil {
		return spec, fmt.Errorf("cannot read the policy of containers: %w", err)
	}
	spec.Policy = string(text)
	return spec, nil
}

// newSelf makes self from the settings, not mounted yet.
func (d *Daemon) newSelf(spec api.GuestSpec) (*selfDir, error) {
	rule, err := runtimes.ParseContainers(d.settings.Self.Containers)
	if err != nil {
		return nil, err
	}
	s := &selfDir{
		d: d, rule: rule, spec: spec, at: attach.Mountpoint{Target: target.Beside(d.settings.Self.Path), Over: true},
		served: make(chan struct{}), ready: make(chan struct{}), quit: make(chan struct{}),
		work: make(chan struct{}, maxSelfWork), boxes: boxes{all: map[string]*box{}},
	}
	if s.policy, err = d.parsePolicy(spec); err != nil {
		return nil, err
	}
	if err := views.CheckControllers(d.host, spec.Controllers); err != nil {
		return nil, err
	}
	_, err = views.Select(d.host, s.policy)
	return s, err
}

// make makes the directory's connection, or resumes the previous worker's by its device.
func (s *selfDir) make(device *os.File) (err error) {
	s.dir, err = self.New(self.Config{
		Touched: s.touched, Own: host.OwnThread, State: s.region, Device: device, Crashed: s.d.start.Crashed,
		Panicked: s.d.panicked, Log: s.d.log,
	})
	return err
}

func (s *selfDir) keep() holder.Keep {
	return holder.Keep{Worker: s.d.worker, Region: s.region.Index()}
}

// selfRetryAfter is the pause before the next try to set up self.
const selfRetryAfter = 2 * time.Second

// followSelf sets up self if the settings ask for it. It retries after a failure, and logs the first one only.
func (d *Daemon) followSelf() {
	d.selfMu.Lock()
	defer d.selfMu.Unlock()
	if d.settings.Self == nil || d.isClosing() {
		return
	}
	if d.self != nil {
		select {
		case <-d.self.served:
			d.log.Errorf("self at %s was unmounted, or its connection aborted; it is mounted anew", d.self.at.Target)
			d.self.end()
			d.self = nil
		default:
			return
		}
	}
	if time.Now().Before(d.selfRetry) {
		return
	}
	again := !d.selfRetry.IsZero()
	spec, err := d.selfSpec()
	var s *selfDir
	if err == nil {
		s, err = d.newSelf(spec)
	}
	if err == nil {
		err = s.start()
	}
	if err != nil {
		if !again {
			d.log.WithError(err).Error("containers find no view by themselves: cannot set up self; it is tried again")
		}
		d.selfRetry = time.Now().Add(selfRetryAfter)
		return
	}
	d.self, d.selfRetry = s, time.Time{}
	d.log.Infof("self is mounted at %s", s.at.Target)
}

// own reports that we make the directory ourselves.
func (s *selfDir) own() bool {
	return s.at.Target.Rootfs == filepath.Dir(s.d.settings.Socket)
}

// start mounts a new self.
func (s *selfDir) start() (err error) {
	path := s.d.settings.Self.Path
	if err := s.at.ClearDead(s.d.log); err != nil {
		return err
	}
	if s.at.Covered() {
		return fmt.Errorf("cannot mount at %s: something is mounted there; unmount it first", path)
	}
	if s.own() {
		if err := os.MkdirAll(path, 0o555); err != nil {
			return err
		}
	}
	if err := s.at.Check(); err != nil {
		return err
	}
	// The present spec, which later workers use too.
	spec := s.spec
	spec.Target = path
	rec := record{Self: true, Since: time.Now().Round(0), Spec: spec}
	config, err := json.Marshal(rec)
	if err == nil {
		s.region, err = s.d.arena.Allocate(config)
	}
	if err != nil {
		return err
	}
	s.region.SetLabel(rec.label())
	if err = s.make(nil); err != nil {
		s.region.Release()
		return err
	}
	device, err := s.dir.Conn().Device()
	if err == nil {
		err = s.keep().Hold(holder.DeviceKey, device)
	}
	if err == nil {
		err = s.at.Mount(s.dir.Conn(), nil)
	}
	if err != nil {
		// Serving never began.
		close(s.served)
		s.end()
		return err
	}
	s.serve()
	// Mounts on it, in a container's copy of this mount namespace, stay in that copy.
	if err = s.keepApart(); err == nil {
		err = agreed(s.dir.Conn(), s.served)
	}
	if err != nil {
		s.end()
		return err
	}
	s.region.SetDevice(s.at.View.Device)
	s.region.SetMount(s.at.View.ID, s.at.View.Unique)
	s.region.Finish()
	close(s.ready)
	return nil
}

// keepApart makes the mount private: mounts on it stay in their own mount namespace.
func (s *selfDir) keepApart() error {
	at, release, err := s.at.Open()
	if err == nil {
		err = unix.Mount("", target.Link(at), "", unix.MS_PRIVATE, "")
		release()
	}
	if err != nil {
		return fmt.Errorf("cannot keep the mounts on it apart: %w", err)
	}
	return nil
}

func (s *selfDir) serve() {
	go func() {
		if err := s.dir.Serve(); err != nil {
			s.d.log.WithError(err).Error("self is served no more")
		}
		close(s.served)
	}()
}

// end removes self. Its mounts in containers are dead from then on.
func (s *selfDir) end() {
	close(s.quit)
	s.at.Leave(s.d.log)
	if s.own() {
		os.Remove(s.d.settings.Self.Path)
	}
	if err := s.keep().Forget(); err != nil {
		s.d.log.WithError(err).Debug("cannot tell the holder")
	}
	s.dir.Close()
	<-s.served
	s.region.Release()
}

// stopSelf removes self while the daemon closes.
func (d *Daemon) stopSelf() {
	d.selfMu.Lock()
	defer d.selfMu.Unlock()
	if d.self != nil {
		d.self.end()
		d.self = nil
	}
}

// suspendSelf leaves self to the next worker.
func (d *Daemon) suspendSelf(ctx context.Context) {
	d.selfMu.Lock()
	defer d.selfMu.Unlock()
	if d.self == nil {
		return
	}
	if err := d.self.dir.Suspend(ctx); err != nil {
		d.log.WithError(err).Info("who touched self is not answered yet; the next worker sees to it")
	}
}

// resumeSelf resumes self if the settings still place it there.
func (d *Daemon) resumeSelf(r *state.Region, rec record, held map[uint64]int) (err error) {
	device, ok := held[holder.DeviceKey]
	var s *selfDir
	switch {
	case d.settings.Self == nil || d.settings.Self.Path != rec.Spec.Target:
		err = errors.New("it is not asked for any more")
	case !r.Finished() || !ok:
		err = errors.New("it was being set up")
	default:
		spec := rec.Spec
		spec.Target = ""
		s, err = d.newSelf(spec)
	}
	if err == nil {
		delete(held, holder.DeviceKey)
		file := os.NewFile(uintptr(device), "fuse")
		s.region, s.at.View = r, mountOf(r)
		close(s.ready)
		err = s.make(file)
		file.Close()
	}
	if err != nil {
		g := d.newGuest(rec)
		g.region, g.at.Target, g.at.View = r, target.Beside(rec.Spec.Target), mountOf(r)
		d.abandon(g, held)
		return fmt.Errorf("cannot go on with self at %s: %v", rec.Spec.Target, err)
	}
	if err := s.dir.Conn().Resend(); err != nil {
		d.log.WithError(err).Error("cannot have the kernel send again what was not answered")
	}
	s.serve()
	d.selfMu.Lock()
	d.self = s
	d.selfMu.Unlock()
	return nil
}
