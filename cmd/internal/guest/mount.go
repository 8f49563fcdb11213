package guest

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fstype"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/target"
	"github.com/vcgroupfs/vcgroupfs/fs"
	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/policy"
)

// MountConfig says what "mount" shows, and where.
type MountConfig struct {
	Boundary Place
	Policy   *policy.Policy
	Layout   hierarchy.Layout
	Owner    *fs.Owner // nil: root, or with a process who is root in its user namespace
	Target   target.Target
	Over     bool   // also over what is mounted there, or in the directory
	Source   string // as mount tables show it
	Ready    func() // called when the view is mounted; may be nil
	Types    Typer  // nil: statfs of the view says FUSE
	Log      *logrus.Entry
}

// Mount serves a view at a directory until it is unmounted or a signal asks for the end.
func Mount(cfg MountConfig) error {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	defer signal.Stop(signals)
	h, err := host.Open()
	if err != nil {
		return fault.With(fault.Unsupported, err)
	}
	defer h.Close()
	trees, err := Select(h, cfg.Policy)
	if err != nil {
		return err
	}
	at := &Mountpoint{Target: cfg.Target, Over: cfg.Over}
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
	}, trees, find)
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

// made has statfs of a new view answered.
func (cfg MountConfig) made(v *fs.View) func(mountFD int) {
	if cfg.Types == nil {
		return nil
	}
	return func(mountFD int) { cfg.Types.Show(mountFD, fstype.ViewOf(v)) }
}

// MountError says what to do where mounting is not permitted.
func MountError(err error) error {
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		return fault.New(fault.Unsupported, "%w: run as root (CAP_SYS_ADMIN)", err)
	}
	return err
}

// OwnerOf is who is root in the guest: who is said to be, or who is in the user namespace of a process, if one is given.
func OwnerOf(said *fs.Owner, pid int) (fs.Owner, error) {
	if said != nil {
		return *said, nil
	}
	if pid == 0 {
		return fs.Owner{}, nil
	}
	if own, err := host.InOwnUserNamespace(pid); err == nil && own {
		return fs.Owner{}, nil
	}
	uid, err1 := hostID(pid, "uid_map")
	gid, err2 := hostID(pid, "gid_map")
	if err := errors.Join(err1, err2); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return fs.Owner{}, fmt.Errorf("cannot use process %d: no such process", pid)
		}
		return fs.Owner{}, fmt.Errorf("cannot tell who is root in the user namespace of process %d: %w; say it with --owner UID:GID", pid, err1)
	}
	return fs.Owner{UID: uid, GID: gid}, nil
}

// hostID is the id that is 0 in a process's user namespace.
func hostID(pid int, file string) (uint32, error) {
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/" + file)
	if err != nil {
		return 0, err
	}
	for _, r := range host.IDRanges(string(raw)) {
		if r.Inside == 0 {
			return uint32(r.Outside), nil
		}
	}
	return 0, fmt.Errorf("%s has no id 0", file)
}

// ParseOwner reads "UID:GID", host ids. The error says the form.
func ParseOwner(s string) (fs.Owner, error) {
	u, g, ok := strings.Cut(s, ":")
	uid, err1 := strconv.ParseUint(u, 10, 32)
	gid, err2 := strconv.ParseUint(g, 10, 32)
	const none = 1<<32 - 1 // the id that stands for no id
	if !ok || err1 != nil || err2 != nil || uid == none || gid == none {
		return fs.Owner{}, fmt.Errorf("cannot read owner %q: write UID:GID, two numbers of the host, as in 100000:100000", s)
	}
	return fs.Owner{UID: uint32(uid), GID: uint32(gid)}, nil
}
