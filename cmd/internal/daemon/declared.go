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
	d     *Daemon
	dir   string
	files map[string]fileMark // as of the last read
	retry map[string]time.Time
	// Guests to add again when they have ended. They follow no process: its number may have been reused by then.
	again map[string]bool
	other map[string]bool // unread files whose names resemble a guest's
	said  string          // the last error about the directory; "" once it is readable
}

// fileMark detects a changed file.
type fileMark struct {
	size    int64
	changed time.Time
	file    os.FileInfo
}

func (m fileMark) same(st os.FileInfo) bool {
	return m.file != nil && os.SameFile(m.file, st) && m.size == st.Size() && m.changed.Equal(st.ModTime())
}

// retryAfter is the pause before the next try to add a declared guest: its boundary may exist by then.
const retryAfter = 5 * time.Second

// follow brings the guests in line with the files.
func (x *declarations) follow() {
	if x == nil || x.dir == "" {
		return
	}
	entries, err := x.entries()
	if err != nil {
		// Once, not every second.
		if said := err.Error(); said != x.said {
			x.said = said
			x.d.log.WithError(err).Warn("cannot read the directory of guests; they stay as they are")
		}
		return
	}
	x.said = ""
	there, others := map[string]bool{}, map[string]bool{}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), declaredSuffix)
		switch {
		case strings.HasPrefix(name, "."):
		case ok:
			there[name] = true
			x.look(name)
		case slices.Contains(mistaken, strings.ToLower(filepath.Ext(name))):
			if others[name] = true; !x.other[name] {
				x.d.log.Errorf("%s is not read: the file of a guest is called NAME%s; rename it", filepath.Join(x.dir, name),
					declaredSuffix)
			}
		}
	}
	x.other = others
	for name := range x.files {
		if !there[name] {
			delete(x.files, name)
			delete(x.retry, name)
			delete(x.again, name)
		}
	}
	for _, g := range x.d.all() {
		if g.record.Declared && !there[g.record.Name] {
			x.d.take(g, api.EventRemoved, "its file was removed")
		}
	}
}

// mistaken are suffixes of files probably meant to declare a guest.
var mistaken = []string{".yml", ".yaml", ".json"}

// look checks one guest's file for a change.
func (x *declarations) look(name string) {
	path := filepath.Join(x.dir, name+declaredSuffix)
	st, err := os.Stat(path)
	if err != nil {
		return
	}
	same := x.files[name].same(st)
	if same && x.again[name] && x.retry[name].IsZero() && !x.d.has(name) {
		x.retry[name] = time.Now().Add(retryAfter)
	}
	if same && (x.retry[name].IsZero() || time.Now().Before(x.retry[name])) {
		return
	}
	x.files[name] = fileMark{st.Size(), st.ModTime(), st}
	delete(x.retry, name)
	if err := x.apply(name); err != nil {
		// One message for each change.
		if !same {
			x.d.log.WithError(err).Errorf("cannot make the guest that %s declares", path)
		}
		x.retry[name] = time.Now().Add(retryAfter)
	}
}

// has reports that a guest of this name exists.
func (d *Daemon) has(name string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.guests[name] != nil
}

// apply adds the guest of a file.
func (x *declarations) apply(name string) error {
	if err := spec.CheckName(name); err != nil {
		return err
	}
	spec, p, err := readDeclared(filepath.Join(x.dir, name+declaredSuffix))
	if err != nil {
		return err
	}
	x.again[name] = spec.Pid == 0
	x.d.mu.Lock()
	old := x.d.guests[name]
	x.d.mu.Unlock()
	if spec.Target == "" {
		// As in the record, so that the next worker finds the spec unchanged.
		spec.Target = x.d.targetOf(name)
	}
	if old != nil {
		switch {
		case reflect.DeepEqual(old.record.Spec, spec):
			return nil
		case !old.record.Declared:
			return fmt.Errorf("there is a guest %s, made by %s; remove it first (vcgroupfs guest rm %s)", name,
				old.record.maker(), name)
		}
		x.d.take(old, api.EventRemoved, "its file was changed")
	}
	_, _, err = x.d.addRecord(record{Name: name, Spec: spec, Declared: true}, p)
	return err
}

// readDeclared reads a guest's file and its policy. It rejects unknown keys, and reports all faults at once.
func readDeclared(path string) (spec api.GuestSpec, p *policy.Policy, err error) {
	text, err := readTrusted(path)
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
		text, err := readTrusted(file)
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
	if err := trusted(dir); err != nil {
		return nil, err
	}
	return dir.ReadDir(-1)
}

// readTrusted reads a file writable by root only: a guest's file sets limits and mounts.
func readTrusted(path string) ([]byte, error) {
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
	if err := trusted(f); err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(f, maxDeclared))
}

// trusted checks that root owns a file or directory and that only root may write to it.
func trusted(f *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	switch {
	case st.Uid != 0:
		return fmt.Errorf("%s belongs to user %d; only what root owns is read (chown root %s)", f.Name(), st.Uid, f.Name())
	case st.Mode&0o022 != 0:
		return fmt.Errorf(
			"%s has mode %04o, so others than root may write to it; allowed: no write by group and others (chmod go-w %s)",
			f.Name(), st.Mode&0o7777, f.Name())
	}
	return nil
}
