package daemon

import (
	"os"
	"path/filepath"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/target"
)

// paths are the daemon's own directories.
type paths struct {
	run string // of the control socket
}

// views holds the views of guests whose spec names no target.
func (p paths) views() string { return filepath.Join(p.run, "views") }

// targetOf returns the target of a guest whose spec names none.
func (p paths) targetOf(guest string) string { return p.views() + "/" + guest }

// own reports that we make the target directory of a spec ourselves.
func (p paths) own(spec api.GuestSpec) bool {
	return spec.Rootfs == "" && filepath.Dir(spec.Target) == p.views()
}

// placeOf returns the target of a spec. Our own target lies in a directory of ours, whose path may contain links.
func (p paths) placeOf(spec api.GuestSpec) target.Target {
	if p.own(spec) {
		return target.Beside(spec.Target)
	}
	return spec.Place()
}

// makeTarget makes the directory for a view. Its parent can be passed through but not read: a user with the guest's
// name can bind its view, for example with bubblewrap, and no one else finds it.
func (p paths) makeTarget(target string) error {
	const passOnly = 0o711
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	st, err := os.Stat(p.views())
	if err != nil || st.Mode().Perm() == passOnly {
		return err
	}
	// The first view, or a directory that an earlier daemon made.
	return os.Chmod(p.views(), passOnly)
}
