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

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/exitcode"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fstype"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/notify"
	"github.com/vcgroupfs/vcgroupfs/fs"
	"github.com/vcgroupfs/vcgroupfs/fs/conn"
	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/policy"
)

// MountConfig says what "mount" shows, and where.
type MountConfig struct {
	Boundary   Place
	Policy     *policy.Policy
	Layout     hierarchy.Layout
	Owner      *fs.Owner // nil: root, or with a process who is root in its user namespace
	Mountpoint string
	Source     string // as mount tables show it
	Ready      func() // called when the view is mounted; may be nil
	Types      Typer  // nil: statfs of the view says FUSE
	Log        *logrus.Entry
}

// Mount serves a view at a directory until it is unmounted or a signal asks for the end.
func Mount(cfg MountConfig) error {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	defer signal.Stop(signals)
	h, err := host.Open()
	if err != nil {
		return exitcode.With(exitcode.Unsupported, err)
	}
	defer h.Close()
	trees, err := Select(h, cfg.Policy)
	if err != nil {
		return err
	}
	if err := CheckMountpoint(cfg.Mountpoint); err != nil {
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
	at := &Mountpoint{Path: cfg.Mountpoint}
	s, err := NewView(fs.Config{
		Host: h, Policy: cfg.Policy, Layout: cfg.Layout, Owner: owner, Log: cfg.Log, FSName: cfg.Source, MountRef: at.Open,
	}, trees, find)
	if err != nil {
		return err
	}
	defer s.Close()
	if err := s.View.Conn().Mount(cfg.Mountpoint, cfg.made(s.View)); err != nil {
		return MountError(err)
	}
	s.Serve()
	defer at.Unmount(cfg.Log)
	if err := at.Learn(); err != nil {
		return err
	}
	cfg.Log.Infof("the view is mounted at %s", cfg.Mountpoint)
	if cfg.Ready != nil {
		cfg.Ready()
	}
	select {
	case sig := <-signals:
		cfg.Log.Infof("%v: unmounting %s", sig, cfg.Mountpoint)
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

// CheckMountpoint says whether something can be mounted at a path.
func CheckMountpoint(path string) error {
	st, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("cannot mount at %s: %w; make the directory first", path, errors.Unwrap(err))
	}
	if !st.IsDir() {
		return fmt.Errorf("cannot mount at %s: it is not a directory", path)
	}
	return nil
}

// MountError says what to do where mounting is not permitted.
func MountError(err error) error {
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		return exitcode.With(exitcode.Unsupported, fmt.Errorf("%w: run as root (CAP_SYS_ADMIN)", err))
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

// Mountpoint is where a view is mounted. Nothing of it is kept open: that would make umount fail with EBUSY.
type Mountpoint struct {
	Path   string
	Device uint64 // of the view; 0: not mounted yet
	Gone   bool   // it is no more
}

// Learn remembers which mount is ours.
func (m *Mountpoint) Learn() error {
	fd, device, err := m.look()
	if err != nil {
		return fmt.Errorf("cannot use the view that was just mounted: %w", &os.PathError{Op: "statx", Path: m.Path, Err: err})
	}
	unix.Close(fd)
	m.Device = device
	return nil
}

// look opens what is at the path now, and tells which file system it is. The server of the view is not asked: it may be this
// process, and a thread of it that waited for itself would keep it from dying.
func (m *Mountpoint) look() (fd int, device uint64, err error) {
	fd, err = unix.Open(m.Path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, 0, err
	}
	if device, err = notify.DeviceOf(fd); err != nil {
		unix.Close(fd)
		return -1, 0, err
	}
	return fd, device, nil
}

// Open opens the view's root, if it is still what is mounted there.
func (m *Mountpoint) Open() (int, func(), error) {
	fd, device, err := m.look()
	if err != nil {
		return -1, nil, err
	}
	if m.Device == 0 || device != m.Device {
		unix.Close(fd)
		return -1, nil, unix.ENOENT
	}
	return fd, func() { unix.Close(fd) }, nil
}

// Unmount takes the view away, if it is still what is mounted there. Who uses it keeps it until then.
func (m *Mountpoint) Unmount(log *logrus.Entry) {
	if m.Gone {
		return
	}
	fd, device, err := m.look()
	if err == nil {
		unix.Close(fd)
	}
	if err == nil && m.Device != 0 && device != m.Device {
		log.Warnf("something else is mounted over the view at %s: the view stays there, without a server", m.Path)
		return
	}
	if err := unix.Unmount(m.Path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
		log.WithError(err).Warnf("cannot unmount %s", m.Path)
	}
}

// ClearDead unmounts what a server of ours that is no more has left mounted at a path. The error says that something else is there.
func ClearDead(path string, log *logrus.Entry) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); conn.IsDead(err) {
		log.Warnf("a server that is no more has left its file system at %s: it is unmounted", path)
		if err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("cannot unmount what a dead server left: %w", pathError("umount", path, err))
		}
	}
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW|unix.AT_STATX_DONT_SYNC, 0, &st)
	if err == nil && st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0 {
		return fmt.Errorf("cannot mount at %s: something is mounted there; unmount it first", path)
	}
	return nil
}
