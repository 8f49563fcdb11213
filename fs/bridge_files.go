package fs

import (
	"slices"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/translate"
	"github.com/vcgroupfs/vcgroupfs/policy"
)

// ownFiles are the control files of a bridge's directories that no file of the host stands behind and no row describes.
var ownFiles = []string{"tasks", "cgroup.procs", "notify_on_release"}

// decideBridged is decide for a directory of a bridge: a file is the guest's if the policy permits that, for its own
// name and for the file behind it on the host.
func (v *View) decideBridged(hier *viewHierarchy, dir uint64, file string) policy.Decision {
	r := policy.Request{Version: hier.version, File: file, Place: hier.place(dir)}
	if slices.Contains(ownFiles, file) || hier.lent != nil && hier.lent.counts(file) {
		return v.policy.Decide(r)
	}
	row, ok := hier.rowOf(file)
	if !ok {
		return policy.Decision{Rule: "not in this hierarchy"}
	}
	return v.policy.DecideTranslated(r, row.HostFile(file))
}

// markers are files that tell whether a controller is enabled in a cgroup of the host.
var markers = map[string]string{"memory": "memory.max", "cpuset": "cpuset.cpus"}

// behindFile returns the host's file without which a control file is not there, "" for one that is always there.
func (hier *viewHierarchy) behindFile(row *translate.Row, file string) string {
	if behind := row.HostFile(file); behind != "" {
		return behind
	}
	f, _ := hierarchy.Lookup(hier.version, file)
	return markers[f.Controller]
}

// translates reports that the view makes a control file of a hierarchy, from others of the host or by itself.
func (hier *viewHierarchy) translates(file string) bool {
	return hier.bridge != nil || hier.lends(file)
}

// translated is translates for what is open.
func (h *handle) translated() bool { return h.hier.translates(h.file) }

// lifeOf returns the life of a directory (file ""), or of a translated file in it. False if it is not there.
func (hier *viewHierarchy) lifeOf(d *host.Dir, file string) (life uint64, there bool) {
	if hier.bridge != nil {
		return hier.bridge.lifeIn(hier, d)
	}
	return hier.lent.lifeIn(d, file)
}

// has reports that a directory has a translated control file.
func (hier *viewHierarchy) has(d *host.Dir, file string) bool {
	if hier.lent != nil {
		return hier.lent.has(hier, d, file)
	}
	if slices.Contains(ownFiles, file) {
		return true
	}
	row, ok := hier.rowOf(file)
	if !ok {
		return false
	}
	behind := hier.behindFile(row, file)
	var st unix.Stat_t
	return behind == "" || d.Lookup(behind, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG
}

// stat makes the stat of a translated control file: the times are those of its directory.
func (hier *viewHierarchy) stat(n node, d *host.Dir, st *unix.Stat_t) error {
	if err := d.Stat(st); err != nil {
		return err
	}
	if !hier.has(d, n.file) {
		return unix.ENOENT
	}
	f, _ := hierarchy.Lookup(n.hier.version, n.file)
	st.Mode, st.Nlink, st.Ino = unix.S_IFREG|f.Mode, 1, n.inode()
	return nil
}

// inode returns an inode number for a translated control file: one of 32 bits, which old programs can read.
func (n node) inode() uint64 {
	const prime = 0x9e3779b97f4a7c15
	h := uint64(n.hier.index+1)*prime ^ n.dir
	for _, c := range []byte(n.file) {
		h = (h ^ uint64(c)) * prime
	}
	return h>>33 | 1<<31
}

// lookupBridged is lookup in a directory of a bridge.
func (v *View) lookupBridged(
	hier *viewHierarchy, d *host.Dir, name string, tid uint32, out *fuse.EntryOut,
) fuse.Status {
	b := hier.bridge
	if _, there := b.lifeIn(hier, d); !there || name == hierarchy.LeafName {
		return errHidden
	}
	var st unix.Stat_t
	if v.decide(hier, d.ID(), name).Verdict != hierarchy.Hidden {
		return v.lookupFile(hier, d, name, tid, out)
	}
	if err := d.Lookup(name, &st); err != nil {
		return status(err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return errHidden
	}
	if st.Ino > dirMask {
		return fuse.Status(unix.EOVERFLOW)
	}
	child, err := hier.acquire(st.Ino)
	if err != nil {
		return status(err)
	}
	defer child.Release()
	life, there := b.lifeIn(hier, child)
	if !there {
		return errHidden
	}
	out.NodeId = v.lifeNode(hier, st.Ino, life)
	v.watchFor(hier, d, tid)
	v.fillAttr(hier, child, "", &st, &out.Attr)
	v.cacheEntry(out)
	return fuse.OK
}

// lookupFile finds a translated control file.
func (v *View) lookupFile(
	hier *viewHierarchy, d *host.Dir, name string, tid uint32, out *fuse.EntryOut,
) fuse.Status {
	decision := v.decide(hier, d.ID(), name)
	life, there := hier.lifeOf(d, name)
	if decision.Verdict == hierarchy.Hidden || !there {
		return errHidden
	}
	var st unix.Stat_t
	if err := hier.stat(node{hier: hier, dir: d.ID(), file: name}, d, &st); err != nil {
		return status(err)
	}
	if decision.File.Pollable {
		v.watchFileFor(hier, d, name, tid)
	}
	if out.NodeId = v.fileNode(hier, d.ID(), name, life); out.NodeId == 0 {
		return errHidden
	}
	v.fillAttr(hier, d, name, &st, &out.Attr)
	v.cacheEntry(out)
	return fuse.OK
}

// listBridged returns the entries of a directory of a bridge, from those of the host's cgroup.
func (v *View) listBridged(hier *viewHierarchy, d *host.Dir, found []host.Entry) (out []dirEntry) {
	there := map[string]bool{}
	for _, e := range found {
		if !e.IsDir {
			there[e.Name] = true
			continue
		}
		if len(e.Name) > nameMax || e.Name == hierarchy.LeafName {
			continue
		}
		if hier.bridge.shows(hier, d, e.Name) {
			out = append(out, dirEntry{name: e.Name, ino: e.ID, mode: unix.S_IFDIR})
		}
	}
	add := func(name string) {
		if v.decide(hier, d.ID(), name).Verdict != hierarchy.Hidden {
			n := node{hier: hier, dir: d.ID(), file: name}
			out = append(out, dirEntry{name: name, ino: n.inode(), mode: unix.S_IFREG})
		}
	}
	for _, name := range ownFiles {
		add(name)
	}
	for _, row := range translate.Rows() {
		if _, ok := hier.rowOf(row.Name); !ok || row.Version != hier.version || row.Absent != "" {
			continue
		}
		if !row.Many() {
			if behind := hier.behindFile(&row, row.Name); behind == "" || there[behind] {
				add(row.Name)
			}
			continue
		}
		for _, e := range found {
			if name, ok := row.Shown(e.Name); ok && !e.IsDir {
				add(name)
			}
		}
	}
	return out
}

// openBridged opens a control file of a bridge: no file of the host is open for it, but for one that a guest can poll.
func (v *View) openBridged(h *handle, d *host.Dir, in *fuse.OpenIn, unique uint64, out *fuse.OpenOut) fuse.Status {
	failpoint("open-begun")
	if !h.hier.has(d, h.file) {
		return v.gone(in, fuse.ENOENT)
	}
	h.row, _ = h.hier.rowOf(h.file)
	if h.decision.File.Pollable && h.row != nil && h.hier.bridge != nil {
		var st unix.Stat_t
		if err := d.Lookup(h.row.HostFile(h.file), &st); err != nil {
			return v.gone(in, status(err))
		}
		h.inode = st.Ino
	}
	failpoint("open-made")
	fh, ok := v.keepOpen(h, &in.InHeader, unique)
	if !ok {
		v.exceeded(&in.InHeader, "open", h.node(), "", "open descriptors")
		return errTooMany
	}
	failpoint("open-done")
	v.stale.found(in.NodeId, in.Pid)
	out.Fh, out.OpenFlags = fh, served
	return fuse.OK
}

// slowBridged reports that a write of the open must leave the serving goroutine: what it keeps is an attribute.
func (h *handle) slowBridged() bool {
	if h.row == nil {
		return false
	}
	behind, _ := hierarchy.Lookup(h.hier.versionBehind(), h.row.HostFile(h.file))
	return h.row.Keeps || h.row.Sums || behind.Blocks
}

// slowToRead reports that a read of the open must leave the serving goroutine, because it looks at each of many
// cgroups: at those below, and for members at those that only other hierarchies have.
func (h *handle) slowToRead(offset uint64) bool {
	switch {
	case offset > 0 || h.hier == nil || !h.translated():
		return false
	case h.file == "":
		return true
	case h.row == nil:
		return h.decision.File.Filter == hierarchy.FilterMembers
	}
	return h.row.Sums && !h.row.Writes()
}

// readBridged returns the content of a control file of a bridge, for the reader tid. ENODEV if its directory is gone.
func (v *View) readBridged(h *handle, tid uint32) ([]byte, error) {
	d, err := h.acquire()
	if err != nil {
		return nil, unix.ENODEV
	}
	defer d.Release()
	switch h.decision.File.Filter {
	case hierarchy.FilterMembers:
		return v.membersBridged(h, d, tid)
	case hierarchy.FilterFake:
		return h.hier.readFake(h.dir)
	}
	if h.row == nil {
		return nil, unix.EPERM
	}
	if fd, err := h.host(); err == nil {
		// The event that a poll reported is seen.
		_, _ = unix.Pread(fd, make([]byte, 1), 0)
	}
	c, done := v.cgroupOf(h.hier, d, nil, false)
	defer done()
	c.shows = true
	if l := h.hier.lent; l != nil && l.counts(h.file) {
		return l.readCounts(c, h, d)
	}
	content, err := h.row.Read(c, h.file)
	if status(err) == fuse.ENOENT {
		err = unix.ENODEV
	}
	return content, err
}

// writeBridged carries out a write to a control file of a bridge within the verdict. Done again, by the next server, it
// ends as done once.
func (v *View) writeBridged(cancel <-chan struct{}, h *handle, tid uint32, data []byte, again bool) error {
	if h.decision.Verdict != hierarchy.ReadWrite && h.decision.Verdict != hierarchy.Guarded {
		return unix.EPERM
	}
	if h.decision.File.Constraint == hierarchy.Members {
		if !h.there() {
			return unix.ENODEV
		}
		return v.moveBridged(h, tid, data)
	}
	d, done, err := h.node().change()
	if err != nil {
		return unix.ENODEV
	}
	defer done()
	switch h.decision.File.Constraint {
	case hierarchy.Fake:
		return v.writeFake(cancel, h, tid, data)
	case hierarchy.ByPolicy:
		if h.decision.Check == nil {
			return unix.EPERM
		}
		if data, err = h.decision.Check(data); err != nil {
			return err
		}
	}
	if h.row == nil {
		return unix.EPERM
	}
	if h.row.Keeps {
		defer h.hier.changesUnderway().alone(changed{h.hier, h.dir})()
	}
	c, closeAll := v.cgroupOf(h.hier, d, cancel, again)
	defer closeAll()
	if err = h.row.Write(c, h.file, data); status(err) == fuse.ENOENT {
		err = unix.ENODEV
	}
	return err
}
