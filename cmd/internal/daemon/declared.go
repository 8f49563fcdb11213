package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
	life "github.com/vcgroupfs/vcgroupfs/cmd/internal/guest"
)

// A file NAME.yaml of the guests' directory declares the guest NAME: its keys are those of api.GuestSpec, but policy may also be
// the path of a file, from the directory. A new file makes the guest, a changed one makes it anew, one that is removed takes it away.
// What cannot be done is said once for each change of the file, and the guest stays as it was.

const declaredSuffix = ".yaml"

// maxDeclared is the longest file that is read, in bytes.
const maxDeclared = 64 << 10

// declarations follows the guests' directory. It is the sweeping goroutine's.
type declarations struct {
	d     *Daemon
	dir   string
	files map[string]fileMark // as they were when they were last read
	retry map[string]time.Time
}

// fileMark tells whether a file has changed.
type fileMark struct {
	size    int64
	changed time.Time
	file    os.FileInfo
}

func (m fileMark) same(st os.FileInfo) bool {
	return m.file != nil && os.SameFile(m.file, st) && m.size == st.Size() && m.changed.Equal(st.ModTime())
}

// retryAfter is when a declared guest that could not be made is tried again: its boundary may be there by then.
const retryAfter = 5 * time.Second

// follow brings the guests in line with the files.
func (x *declarations) follow() {
	if x == nil || x.dir == "" {
		return
	}
	entries, err := os.ReadDir(x.dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		x.d.log.WithError(err).Warn("cannot read the directory of guests; they stay as they are")
		return
	}
	there := map[string]bool{}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), declaredSuffix)
		if !ok || strings.HasPrefix(name, ".") {
			continue
		}
		there[name] = true
		st, err := os.Stat(filepath.Join(x.dir, e.Name()))
		if err != nil {
			continue
		}
		due := !x.retry[name].IsZero() && time.Now().After(x.retry[name])
		if x.files[name].same(st) && !due {
			continue
		}
		again := x.files[name].same(st)
		x.files[name] = fileMark{st.Size(), st.ModTime(), st}
		delete(x.retry, name)
		if err := x.apply(name, st); err != nil {
			if !again { // said once for each change
				x.d.log.WithError(err).Errorf("cannot make the guest that %s declares", filepath.Join(x.dir, e.Name()))
			}
			x.retry[name] = time.Now().Add(retryAfter)
		}
	}
	for name := range x.files {
		if !there[name] {
			delete(x.files, name)
			delete(x.retry, name)
		}
	}
	for _, g := range x.d.all() {
		if g.record.Declared && !there[g.record.Name] {
			x.d.take(g, api.EventRemoved, "its file was removed")
		}
	}
}

// apply makes the guest of a file.
func (x *declarations) apply(name string, st os.FileInfo) error {
	if err := life.CheckName(name); err != nil {
		return err
	}
	spec, err := readDeclared(filepath.Join(x.dir, name+declaredSuffix), st)
	if err != nil {
		return err
	}
	x.d.mu.Lock()
	old := x.d.guests[name]
	x.d.mu.Unlock()
	if spec.Target == "" {
		spec.Target = x.d.targetOf(name) // as the record has it, so that another worker finds it unchanged
	}
	if old != nil {
		switch {
		case reflect.DeepEqual(old.record.Spec, spec):
			return nil
		case !old.record.Declared:
			return fmt.Errorf("there is a guest %s, made by %s; remove it first (vcgroupfs guest rm %s)", name, old.record.maker(), name)
		}
		x.d.take(old, api.EventRemoved, "its file was changed")
	}
	_, _, err = x.d.addRecord(record{Name: name, Spec: spec, Declared: true})
	return err
}

// readDeclared reads a guest's file. Every key must be known, and all faults are said at once.
func readDeclared(path string, st os.FileInfo) (spec api.GuestSpec, err error) {
	if !st.Mode().IsRegular() || st.Size() > maxDeclared {
		return spec, fmt.Errorf("it is no file of at most %d bytes", maxDeclared)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return spec, err
	}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	if err := dec.Decode(&spec); err != nil {
		if errors.Is(err, io.EOF) {
			err = errors.New("it is empty")
		}
		return spec, err
	}
	if spec.Policy != "" && !strings.Contains(spec.Policy, "\n") {
		file := spec.Policy
		if !filepath.IsAbs(file) {
			file = filepath.Join(filepath.Dir(path), file)
		}
		policy, err := os.ReadFile(file)
		if err != nil {
			return spec, fmt.Errorf("cannot read its policy: %w", err)
		}
		spec.Policy = string(policy)
	}
	return spec, spec.Check()
}
