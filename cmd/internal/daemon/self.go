package daemon

import (
	"fmt"
	"os"
	"time"

	"github.com/sirupsen/logrus"
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

// selfConfig is what self works with. All fields are immutable.
type selfConfig struct {
	settings *Self // nil for none
	paths    paths
	log      *logrus.Entry
	host     *host.Host
	arena    *state.Arena
	keepers  keepers
	policies *policies
	guests   guests
	crashed  bool   // the worker before failed by itself
	panicked func() // ends the worker
	ended    func() // is called when self is served no more; must not wait
}

// selfDir is self: its directory, its mount, and the containers that touched it.
type selfDir struct {
	selfConfig
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

// spec returns the spec of the guests to add, from the settings.
func (s *Self) spec() (spec api.GuestSpec, err error) {
	spec = api.GuestSpec{Controllers: s.Controllers}
	if s.Policy == "" {
		return spec, nil
	}
	text, err := os.ReadFile(s.Policy)
	if err != nil {
		return spec, fmt.Errorf("cannot read the policy of containers: %w", err)
	}
	spec.Policy = string(text)
	return spec, nil
}

// newSelf makes self from the settings, not mounted yet.
func newSelf(cfg selfConfig, spec api.GuestSpec) (*selfDir, error) {
	rule, err := runtimes.ParseContainers(cfg.settings.Containers)
	if err != nil {
		return nil, err
	}
	s := &selfDir{
		selfConfig: cfg, rule: rule, spec: spec, at: attach.Mountpoint{Target: target.Beside(cfg.settings.Path), Over: true},
		served: make(chan struct{}), ready: make(chan struct{}), quit: make(chan struct{}),
		work: make(chan struct{}, maxSelfWork), boxes: boxes{all: map[string]*box{}},
	}
	if s.policy, err = cfg.policies.of(spec); err != nil {
		return nil, err
	}
	if err := views.CheckControllers(cfg.host, spec.Controllers, layoutOf(spec)); err != nil {
		return nil, err
	}
	_, err = views.Select(cfg.host, s.policy, layoutOf(spec))
	return s, err
}

// make makes the directory's connection, or resumes the previous worker's by its device.
func (s *selfDir) make(device *os.File) (err error) {
	s.dir, err = self.New(self.Config{
		Touched: s.touched, Own: host.OwnThread, State: s.region, Device: device, Crashed: s.crashed,
		Panicked: s.panicked, Log: s.log,
	})
	return err
}

// own reports that we make the directory ourselves.
func (s *selfDir) own() bool {
	return s.at.Target.Rootfs == s.paths.run
}

// start mounts a new self.
func (s *selfDir) start() (err error) {
	path := s.settings.Path
	if err := s.at.ClearDead(s.log); err != nil {
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
	rec := selfRecord{target: path, spec: s.spec, since: time.Now().Round(0)}
	config, err := rec.encode()
	if err == nil {
		s.region, err = s.arena.Allocate(config)
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
		err = s.keepers.of(s.region).Hold(holder.DeviceKey, device)
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
	remember(s.region, s.at.View)
	s.region.MarkSetUp()
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
			s.log.WithError(err).Error("self is served no more")
		}
		close(s.served)
		s.ended()
	}()
}

// end removes self. Its mounts in containers are dead from then on.
func (s *selfDir) end() {
	close(s.quit)
	s.at.Leave(s.log)
	if s.own() {
		os.Remove(s.settings.Path)
	}
	s.keepers.forget(s.region.Index(), s.log)
	s.dir.Close()
	<-s.served
	s.region.Release()
}
