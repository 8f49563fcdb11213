package run

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/attach"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/spec"
	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/policy"
)

const (
	// parentPath is the cgroup of all guests, in each hierarchy.
	parentPath = "/vcgroupfs"
	// leaseDir has a file for each guest.
	leaseDir = "/run/vcgroupfs/guests"
)

// record is the content of a lease's file.
type record struct {
	Name  string   `json:"name"`
	Pid   int      `json:"pid"`
	Trees []string `json:"trees"`          // hierarchies by their String
	Root  uint64   `json:"root,omitempty"` // kernfs id of the first one's root: a guest may share /run with its host
}

// lease is the part of the host that "run" has made for one guest.
type lease struct {
	file        *os.File          // locked
	path        string            // of the boundary, in each hierarchy
	hierarchies []*host.Hierarchy // the hierarchies with the boundary
	log         *logrus.Entry
}

// makeLease makes the boundary of a guest in the given hierarchies, with the permitted controllers enabled on v2.
func makeLease(h *host.Host, name string, hierarchies []*host.Hierarchy, p *policy.Policy,
	log *logrus.Entry) (l *lease, err error) {
	if name == "" {
		name = "run-" + strconv.Itoa(os.Getpid())
	}
	if err := spec.CheckName(name); err != nil {
		return nil, err
	}
	made := &lease{path: parentPath + "/" + name, log: log}
	if made.file, err = lockFile(name); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			made.release()
		}
	}()
	r := record{Name: name, Pid: os.Getpid(), Root: rootOf(h)}
	for _, t := range hierarchies {
		r.Trees = append(r.Trees, t.String())
	}
	text, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	if _, err := made.file.WriteAt(text, 0); err != nil {
		return nil, fmt.Errorf("cannot note the guest: %w", err)
	}
	for _, t := range hierarchies {
		if err := made.create(t, p); err != nil {
			return nil, err
		}
	}
	return made, nil
}

func (l *lease) create(t *host.Hierarchy, p *policy.Policy) error {
	if t.ReadOnly {
		return fmt.Errorf("cannot make a boundary in the hierarchy %s: %s is mounted read-only", t, t.Mountpoint)
	}
	if t.Exists(l.path) {
		return fmt.Errorf("cannot make a boundary: there is a cgroup %s in the hierarchy %s already; choose another --name",
			l.path, t)
	}
	l.hierarchies = append(l.hierarchies, t)
	var enable []string
	for _, c := range t.Controllers {
		if t.Version == hierarchy.V2 && p.Permits(c) {
			enable = append(enable, c)
		}
	}
	for tries := 0; ; tries++ {
		err := t.Create(l.path, 0o755)
		if err == nil && len(enable) > 0 {
			err = t.Enable(l.path, enable...)
		}
		switch {
		case err == nil:
			return nil
		case errors.Is(err, unix.ENOENT) && tries < 10:
			// The last guest that ended has removed the parent.
		case errors.Is(err, unix.EBUSY):
			return fmt.Errorf("cannot enable %s for the boundary: %w: a cgroup above it holds processes",
				strings.Join(enable, ", "), err)
		default:
			return fmt.Errorf("cannot make a boundary in the hierarchy %s: %w", t, err)
		}
	}
}

// release removes the lease's cgroups and file. It goes on after an error, and logs each.
func (l *lease) release() {
	removeGuest(l.hierarchies, l.path, l.log)
	if l.file != nil {
		// The file is still locked: no other process takes it meanwhile.
		os.Remove(l.file.Name())
		l.file.Close()
	}
}

// removeGuest kills the processes in a guest's cgroups and removes the cgroups.
func removeGuest(hierarchies []*host.Hierarchy, path string, log *logrus.Entry) {
	for _, t := range hierarchies {
		if err := t.Kill(path); err != nil {
			log.WithError(err).Warnf("cannot kill what is left of the guest in the hierarchy %s", t)
		}
	}
	for _, t := range hierarchies {
		if err := t.RemoveAll(path); err != nil {
			log.WithError(err).Warnf("cannot remove the guest's cgroup from the hierarchy %s", t)
		}
		err := t.RemoveIfEmpty(parentPath)
		if err != nil && !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENOENT) {
			log.WithError(err).Debugf("cannot remove %s from the hierarchy %s", parentPath, t)
		}
	}
}

// lockFile makes a guest's file and locks it. The error reports a running guest of that name.
func lockFile(name string) (*os.File, error) {
	file := name + ".json"
	// cleanUp of another process must not find the file before it is locked.
	dir, err := lockDir(leaseDir)
	if err != nil {
		return nil, fmt.Errorf("cannot note the guest: %w", err)
	}
	defer dir.Close()
	f, err := lockBelow(leaseDir, file)
	if errors.Is(err, errLocked) {
		return nil, fmt.Errorf("cannot use the name %q: a guest of that name is running (%s); choose another --name",
			name, filepath.Join(leaseDir, file))
	}
	if err != nil {
		return nil, fmt.Errorf("cannot note the guest: %w", err)
	}
	return f, f.Truncate(0)
}

// errLocked reports that another process has locked the file.
var errLocked = errors.New("the file is locked")

// makeDir makes a directory of ours below /run.
func makeDir(dir string) error {
	// The daemon's socket is there too, and users other than root may need to reach it.
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	return os.MkdirAll(dir, 0o700)
}

// lockPatience bounds the wait for a directory's lock, which is held for a moment only: its holder may be stopped.
const lockPatience = 30 * time.Second

// lockDir makes a directory of ours and locks it, as soon as no other process has it locked. Closing it ends the lock.
func lockDir(dir string) (*os.File, error) {
	if err := makeDir(dir); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	for begin := time.Now(); ; time.Sleep(2 * time.Millisecond) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Since(begin) > lockPatience {
			f.Close()
			return nil, attach.PathError("flock", dir, err)
		}
	}
}

// lockBelow makes a file in a directory of ours below /run, and locks it. errLocked if another process has locked it.
func lockBelow(dir, name string) (*os.File, error) {
	if err := makeDir(dir); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, name)
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return nil, err
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			f.Close()
			if errors.Is(err, unix.EWOULDBLOCK) {
				err = errLocked
			}
			return nil, err
		}
		if sameFile(f, path) {
			return f, nil
		}
		// Its last owner removed it between our open and our lock.
		f.Close()
	}
}

func sameFile(f *os.File, path string) bool {
	a, err1 := f.Stat()
	b, err2 := os.Lstat(path)
	return err1 == nil && err2 == nil && os.SameFile(a, b)
}

// rootOf identifies the root of a host's cgroups: a host's own, or a guest's.
func rootOf(h *host.Host) uint64 { return h.Hierarchies()[0].ID() }

// cleanUp removes the cgroups and files that killed servers have left.
func cleanUp(h *host.Host, log *logrus.Entry) error {
	dead, err := lockDead()
	if err != nil {
		return fmt.Errorf("cannot look for what killed servers have left: %w", err)
	}
	for _, f := range dead {
		cleanUpGuest(h, f, log)
		f.Close()
	}
	return nil
}

// lockDead locks the files of guests whose servers have ended.
func lockDead() (dead []*os.File, err error) {
	dir, err := lockDir(leaseDir)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	files, err := filepath.Glob(filepath.Join(leaseDir, "*.json"))
	for _, path := range files {
		f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0)
		if err != nil {
			continue
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil || !sameFile(f, path) {
			f.Close()
			continue
		}
		dead = append(dead, f)
	}
	return dead, err
}

// cleanUpGuest removes the cgroups and the file of one guest, whose server has ended. The file is locked.
func cleanUpGuest(h *host.Host, f *os.File, log *logrus.Entry) {
	path := f.Name()
	name := strings.TrimSuffix(filepath.Base(path), ".json")
	if spec.CheckName(name) != nil {
		log.Warnf("cannot clean up after %s: it is no file of a guest", path)
		return
	}
	var r record
	if err := json.NewDecoder(f).Decode(&r); err != nil {
		log.WithError(err).Debugf("the file %s was not written to its end", path)
	}
	if r.Root != 0 && r.Root != rootOf(h) {
		// A guest of a guest, or of our host.
		return
	}
	hierarchies := h.Hierarchies()
	if len(r.Trees) > 0 {
		hierarchies = slices.DeleteFunc(slices.Clone(hierarchies),
			func(t *host.Hierarchy) bool { return !slices.Contains(r.Trees, t.String()) })
	}
	log.Infof("removing what the guest %s left: its server (process %d) was killed", name, r.Pid)
	removeGuest(hierarchies, parentPath+"/"+name, log)
	os.Remove(path)
}
