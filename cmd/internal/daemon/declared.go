package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	"go.yaml.in/yaml/v4"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/spec"
	"github.com/vcgroupfs/vcgroupfs/policy"
)

// A file NAME.yaml in the guests' directory declares the guest NAME. Its keys are those of api.GuestSpec, but policy
// may also be the path of a file, relative to the directory. A new file adds the guest, a changed one replaces it, and
// removing the file removes it. A guest that has ended with its boundary is added again once the boundary is back. A
// failure is logged once for each change of the file, and leaves the guest as it was.

const declaredSuffix = ".yaml"

// maxDeclared is the size limit of a guest's file, in bytes.
const maxDeclared = 64 << 10

// declarations follows the guests' directory. Used by the sweeping goroutine only.
type declarations struct {
	guests guests
	log    *logrus.Entry
	paths  paths
	dir    string
	owner  uint32 // of the directory and its files: root

	changed func()    // is called when the directory changes
	watch   *dirWatch // of the directory; nil before the first follow, or without inotify

	files map[string]*declaredFile
	other map[string]bool // unread files whose names resemble a guest's
	said  string          // the last error about the directory; "" once it is readable
}

func newDeclarations(g guests, log *logrus.Entry, p paths, dir string, changed func()) *declarations {
	return &declarations{guests: g, log: log, paths: p, dir: dir, changed: changed, files: map[string]*declaredFile{}}
}

// declaredFile is a guest's file as of the last read.
type declaredFile struct {
	read  os.FileInfo // nil before the first read
	retry time.Time   // time of the next read of the unchanged file; zero for none
	// The guest is added again when it has ended. It follows no process: the number may have been reused by then.
	again bool
}

// retryAfter is the pause before the next try to add a declared guest: its boundary may exist by then.
const retryAfter = 5 * time.Second

// due reports that the file is to be read now: because it has changed, or to try once more. exists is true while there
// is a guest of its name.
func (f *declaredFile) due(st os.FileInfo, exists bool, now time.Time) (due, changed bool) {
	if f.read == nil || !os.SameFile(f.read, st) || f.read.Size() != st.Size() || !f.read.ModTime().Equal(st.ModTime()) {
		return true, true
	}
	if f.again && f.retry.IsZero() && !exists {
		f.retry = now.Add(retryAfter)
	}
	return !f.retry.IsZero() && !now.Before(f.retry), false
}

// lookAgain is the pause before the next look at files of which no event tells.
const lookAgain = time.Second

// follow brings the guests in line with the files. It returns when it is to be called again if no change is told; zero
// for never.
func (x *declarations) follow() (next time.Time) {
	if x.dir == "" {
		return time.Time{}
	}
	heard := x.hear()
	entries, err := x.entries()
	if err != nil {
		// Once, not every second.
		if said := err.Error(); said != x.said {
			x.said = said
			x.log.WithError(err).Warn("cannot read the directory of guests; they stay as they are")
		}
	} else {
		x.said = ""
		x.apply(entries)
	}
	if !heard || slices.ContainsFunc(entries, func(e os.DirEntry) bool { return e.Type()&os.ModeSymlink != 0 }) {
		next = time.Now().Add(lookAgain)
	}
	for _, f := range x.files {
		if !f.retry.IsZero() && (next.IsZero() || f.retry.Before(next)) {
			next = f.retry
		}
	}
	return next
}

// hear has changes of the directory told from now on. It reports failure: then somebody is to look.
func (x *declarations) hear() bool {
	if x.watch == nil {
		w, err := newDirWatch(x.changed)
		if err != nil {
			return false
		}
		x.watch = w
	}
	return x.watch.follow(x.dir) == nil
}

// apply brings the guests in line with the entries of the directory.
func (x *declarations) apply(entries []os.DirEntry) {
	there, others := map[string]bool{}, map[string]bool{}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), declaredSuffix)
		switch {
		case strings.HasPrefix(name, "."):
		case ok:
			there[name] = true
			x.check(name)
		case slices.Contains(mistaken, strings.ToLower(filepath.Ext(name))):
			if others[name] = true; !x.other[name] {
				x.log.Errorf("%s is not read: the file of a guest is called NAME%s; rename it", filepath.Join(x.dir, name),
					declaredSuffix)
			}
		}
	}
	x.other = others
	for name := range x.files {
		if !there[name] {
			delete(x.files, name)
		}
	}
	for _, g := range x.guests.all() {
		if g.record.Declared && !there[g.record.Name] {
			x.guests.remove(g, api.EventRemoved, "its file was removed")
		}
	}
}

// mistaken are suffixes of files probably meant to declare a guest.
var mistaken = []string{".yml", ".yaml", ".json"}

// check reads one guest's file if that is due.
func (x *declarations) check(name string) {
	path := filepath.Join(x.dir, name+declaredSuffix)
	st, err := os.Stat(path)
	if err != nil {
		return
	}
	f := x.files[name]
	if f == nil {
		f = &declaredFile{}
		x.files[name] = f
	}
	due, changed := f.due(st, x.guests.named(name) != nil, time.Now())
	if !due {
		return
	}
	f.read, f.retry = st, time.Time{}
	if err := x.applyFile(name, f); err != nil {
		// One message for each change.
		if changed {
			x.log.WithError(err).Errorf("cannot make the guest that %s declares", path)
		}
		f.retry = time.Now().Add(retryAfter)
	}
}

// applyFile adds the guest of a file.
func (x *declarations) applyFile(name string, f *declaredFile) error {
	if err := spec.CheckName(name); err != nil {
		return err
	}
	spec, p, err := readDeclared(filepath.Join(x.dir, name+declaredSuffix), x.owner)
	if err != nil {
		return err
	}
	f.again = spec.Pid == 0
	if spec.Target == "" {
		// As in the record, so that the next worker finds the spec unchanged.
		spec.Target = x.paths.targetOf(name)
	}
	if old := x.guests.named(name); old != nil {
		switch {
		case reflect.DeepEqual(old.record.Spec, spec):
			return nil
		case !old.record.Declared:
			return fmt.Errorf("there is a guest %s, made by %s; remove it first (vcgroupfs guest rm %s)", name,
				old.record.maker(), name)
		}
		x.guests.remove(old, api.EventRemoved, "its file was changed")
	}
	_, _, err = x.guests.add(record{Name: name, Spec: spec, Declared: true}, p)
	return err
}

// readDeclared reads a guest's file and its policy, both of the owner. It rejects unknown keys, and reports all faults
// at once.
func readDeclared(path string, owner uint32) (spec api.GuestSpec, p *policy.Policy, err error) {
	text, err := readTrusted(path, owner)
	if err != nil {
		return spec, nil, err
	}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	var node yaml.Node
	err = dec.Decode(&node)
	switch {
	case errors.Is(err, io.EOF):
		err = errors.New("it is empty")
	case err == nil:
		err = checkDeclared(&node, &spec)
	}
	if err == nil {
		err = node.Decode(&spec)
	}
	if err != nil {
		return spec, nil, err
	}
	if spec.Policy != "" && !strings.Contains(spec.Policy, "\n") {
		file := spec.Policy
		if !filepath.IsAbs(file) {
			file = filepath.Join(filepath.Dir(path), file)
		}
		text, err := readTrusted(file, owner)
		if err != nil {
			return spec, nil, fmt.Errorf("cannot read its policy: %w", err)
		}
		spec.Policy = string(text)
	}
	p, err = spec.Check()
	return spec, p, err
}

// entries lists the directory, empty if it does not exist.
func (x *declarations) entries() ([]os.DirEntry, error) {
	dir, err := os.Open(x.dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	if err := trusted(dir, x.owner); err != nil {
		return nil, err
	}
	return dir.ReadDir(-1)
}

// readTrusted reads a file writable by its owner only: a guest's file sets limits and mounts.
func readTrusted(path string, owner uint32) ([]byte, error) {
	// O_NONBLOCK: opening a FIFO must not wait.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() || st.Size() > maxDeclared {
		return nil, fmt.Errorf("%s is no file of at most %d bytes", path, maxDeclared)
	}
	if err := trusted(f, owner); err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(f, maxDeclared))
}

// trusted checks that the owner, root, owns a file or directory and that nobody else may write to it.
func trusted(f *os.File, owner uint32) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	switch {
	case st.Uid != owner:
		return fmt.Errorf("%s belongs to user %d; only what root owns is read (chown root %s)", f.Name(), st.Uid, f.Name())
	case st.Mode&0o022 != 0:
		return fmt.Errorf(
			"%s has mode %04o, so others than root may write to it; allowed: no write by group and others (chmod go-w %s)",
			f.Name(), st.Mode&0o7777, f.Name())
	}
	return nil
}
