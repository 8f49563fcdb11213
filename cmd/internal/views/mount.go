package views

import (
	"os"
	"os/signal"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/attach"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fstype"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/spec"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/target"
	"github.com/vcgroupfs/vcgroupfs/fs"
	"github.com/vcgroupfs/vcgroupfs/fs/conn"
	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/policy"
)

// MountConfig configures "mount".
type MountConfig struct {
	Boundary Place
	Policy   *policy.Policy
	Layout   hierarchy.Layout
	Owner    *spec.Owner // nil: root, or for a boundary by process the root of its user namespace
	Target   target.Target
	Over     bool   // mount also over another mount, or over a directory that is not empty
	Source   string // the source that mount tables show
	Ready    func() // called once the view is mounted; may be nil
	Types    Typer  // nil: statfs of the view returns FUSE's type

	Transport conn.Transport
	Log       *logrus.Entry
}

// Mount serves a view at a directory until it is unmounted or a signal asks for the end. The error names the step that
// failed before, or reports how serving ended.
func Mount(cfg MountConfig) error {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	defer signal.Stop(signals)
	h, err := host.Open()
	if err != nil {
		return fault.With(fault.Unsupported, err)
	}
	defer h.Close()
	hierarchies, err := Select(h, cfg.Policy, cfg.Layout)
	if err != nil {
		return err
	}
	at := &attach.Mountpoint{Target: cfg.Target, Over: cfg.Over}
	if err := at.Check(); err != nil {
		return err
	}
	owner, err := OwnerOf(cfg.Owner, cfg.Boundary.Pid)
	if err != nil {
		return err
	}
	find, err := cfg.Boundary.Find()
	if err != nil {
		return err
	}
	s, err := NewView(fs.Config{
		Host: h, Policy: cfg.Policy, Layout: cfg.Layout, Owner: owner, Log: cfg.Log, FSName: cfg.Source, MountRef: at.Open,
		Transport: cfg.Transport,
	}, hierarchies, find)
	if err != nil {
		return err
	}
	defer s.Close()
	if err := at.Mount(s.View.Conn(), cfg.made(s.View)); err != nil {
		return err
	}
	s.Serve()
	defer at.Leave(cfg.Log)
	cfg.Log.Infof("the view is mounted at %s", cfg.Target)
	if cfg.Ready != nil {
		cfg.Ready()
	}
	select {
	case sig := <-signals:
		cfg.Log.Infof("%v: unmounting %s", sig, cfg.Target)
		return nil
	case <-s.Done:
		at.Gone = true
		return s.Err
	}
}

// made returns a function for attach.Mountpoint.Mount that has statfs of the new view answered, nil without Types.
func (cfg MountConfig) made(v *fs.View) func(mountFD int) {
	if cfg.Types == nil {
		return nil
	}
	return func(mountFD int) { cfg.Types.Show(mountFD, fstype.ViewOf(v)) }
}
