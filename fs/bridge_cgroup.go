package fs

import (
	"errors"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/translate"
	"github.com/vcgroupfs/vcgroupfs/policy"
)

// bridged is a cgroup of the host, for the formulas of package translate: one that a hierarchy of a bridge shows, or
// one of v2 with those of v1 that have the same path.
type bridged struct {
	v      *View
	hier   *viewHierarchy
	d      *host.Dir
	child  string // a path from d, which is opened for each use; "" for d itself
	cancel <-chan struct{}
	again  bool         // the previous server may have begun to write
	opened *[]*host.Dir // directories to release
	free   bool         // neither policy nor budget holds for writes: a controller ends
	shows  bool         // what is read is for the guest
}

var _ translate.Cgroup = bridged{}

// cgroupOf makes one of a directory. done releases what it opens, and not the directory.
func (v *View) cgroupOf(
	hier *viewHierarchy, d *host.Dir, cancel <-chan struct{}, again bool,
) (c bridged, done func()) {
	opened := &[]*host.Dir{}
	return bridged{v: v, hier: hier, d: d, cancel: cancel, again: again, opened: opened}, func() { releaseAll(*opened) }
}

// Read holds the policy for what the guest is shown: a file that a rule hides is not read under another name.
func (c bridged) Read(file string) (string, error) {
	if c.shows && c.v.policy.Hides(c.request(file)) {
		return "", refuse(unix.EPERM, "a file behind it is hidden")
	}
	d, done, err := c.dirOf(file)
	if err != nil {
		return "", err
	}
	defer done()
	raw, err := d.ReadFile(file)
	return string(raw), err
}

// Write holds the policy's verdict on the host's file, too: what a policy forbids under one name is not done under
// another one.
func (c bridged) Write(file, value string) error {
	if c.free {
		return c.write(file, []byte(value), false)
	}
	d := c.v.policy.Decide(c.request(file))
	data := []byte(value)
	switch {
	case d.Verdict == hierarchy.ReadWrite:
	case d.Verdict != hierarchy.Guarded:
		return refuse(unix.EPERM, d.Rule)
	case d.Check != nil:
		var err error
		if data, err = d.Check(data); err != nil {
			return err
		}
	default:
		switch d.File.Constraint {
		case hierarchy.Canonical:
			// What the formulas write is.
		case hierarchy.PriorityClass:
			if value == "promote-to-rt" || value == "none-to-rt" {
				return refuse(unix.EPERM, d.Rule)
			}
		case hierarchy.Reclaim, hierarchy.Action:
			select {
			case c.v.reclaims <- struct{}{}:
				defer func() { <-c.v.reclaims }()
			default:
				return unix.EAGAIN
			}
		default:
			return refuse(unix.EPERM, d.Rule)
		}
	}
	return c.write(file, data, d.File.Blocks)
}

// request asks for the verdict on a file of the host.
func (c bridged) request(file string) policy.Request {
	place := hierarchy.Below
	if c.child == "" && c.d.IsBoundary() {
		place = hierarchy.Boundary
	}
	return policy.Request{Version: c.hier.versionBehind(), File: file, Place: place}
}

// versionBehind is the version of the host's files that stand behind translated ones.
func (hier *viewHierarchy) versionBehind() hierarchy.Version {
	if hier.lent != nil {
		return hierarchy.V1
	}
	return hierarchy.V2
}

// open opens the cgroup.
func (c bridged) open() (d *host.Dir, done func(), err error) {
	if c.child == "" {
		return c.d, func() {}, nil
	}
	rel, err := c.d.Path()
	if err != nil {
		return nil, nil, err
	}
	if d, err = c.hier.boundary.At(path.Join(rel, c.child)); err != nil {
		return nil, nil, err
	}
	return d, d.Release, nil
}

// dirOf opens the directory that has a file of the host.
func (c bridged) dirOf(file string) (d *host.Dir, done func(), err error) {
	d, done, err = c.open()
	if err != nil || c.hier.lent == nil {
		return d, done, err
	}
	defer done()
	p := c.hier.lent.partWith(file)
	if p == nil {
		return nil, nil, unix.ENOENT
	}
	if d, err = p.at(d); err != nil {
		return nil, nil, err
	}
	return d, d.Release, nil
}

func (c bridged) write(file string, data []byte, blocks bool) error {
	d, done, err := c.dirOf(file)
	if err != nil {
		return err
	}
	defer done()
	fd, err := d.OpenFile(file, unix.O_WRONLY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	failpoint("bridge-write")
	if blocks && c.cancel != nil {
		_, err = host.WriteInterruptible(c.cancel, fd, data)
	} else {
		_, err = host.WriteCommand(fd, data)
	}
	failpoint("bridge-written")
	return err
}

// attrKept precedes the name of the file in that of the attribute, of the hierarchy's part of the cgroup.
const attrKept = "kept."

func (c bridged) Kept(name string) (string, error) {
	d, done, err := c.open()
	if err != nil {
		return "", err
	}
	defer done()
	var buf [maxKernfsWrite]byte
	n, err := c.hier.self(d).GetXattr(attrKept+name, buf[:])
	if errors.Is(err, unix.ENODATA) {
		return "", nil
	}
	return string(buf[:max(n, 0)]), err
}

func (c bridged) Keep(name, value string) error {
	d, done, err := c.open()
	if err != nil {
		return err
	}
	defer done()
	at := c.hier.self(d)
	if value == "" {
		if isSet(at, attrKept+name) == 0 {
			return nil
		}
		return c.v.removeAttr(at, attrKept+name, c.again)
	}
	if had, err := c.Kept(name); err == nil && had == value {
		return nil
	}
	kind := viewsAttr
	if c.free {
		kind = endsAttr
	}
	err = c.v.setAttrs(at, kind, c.again, attrChange{stored: attrKept + name, data: []byte(value)})
	failpoint("bridge-kept")
	return err
}

func (c bridged) Above() (translate.Cgroup, bool) {
	if c.child != "" {
		c.child = strings.TrimPrefix(path.Dir("/"+c.child), "/")
		return c, true
	}
	if c.d.IsBoundary() {
		return nil, false
	}
	up, err := c.d.Parent()
	if err != nil {
		return nil, false
	}
	return c.at(up), true
}

func (c bridged) Below() (all []translate.Cgroup, err error) {
	d, done, err := c.open()
	if err != nil {
		return nil, err
	}
	defer done()
	names, err := c.hier.children(d)
	for _, name := range names {
		child := c
		child.child = path.Join(c.child, name)
		all = append(all, child)
	}
	return all, err
}

// at is the same for another directory, which done releases.
func (c bridged) at(d *host.Dir) bridged {
	*c.opened = append(*c.opened, d)
	c.d, c.child = d, ""
	return c
}
