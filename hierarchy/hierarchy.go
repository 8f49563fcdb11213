package hierarchy

import (
	"bytes"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
)

// Hierarchy is one mounted cgroup tree of the host.
type Hierarchy struct {
	Version     Version
	ID          int      // as in /proc/<pid>/cgroup, 0 for v2
	Controllers []string // in the kernel's order; on v2 those of the root
	Name        string   // of a named v1 hierarchy, without "name="
	Mountpoint  string
	Dir         string // the directory at the top of a view with several hierarchies
	ReadOnly    bool   // the mount is
	View        bool   // part of a view: this host is itself a guest
}

// Unified names the v2 hierarchy in policies and layouts of a host that has v1 hierarchies too.
const Unified = "unified"

// String names a hierarchy: "cpu,cpuacct", "name=systemd", "unified".
func (h Hierarchy) String() string {
	if h.Version == V2 {
		return Unified
	}
	return strings.Join(h.labels(), ",")
}

// labels are the words of the hierarchy in /proc/<pid>/cgroup.
func (h Hierarchy) labels() []string {
	if h.Name == "" {
		return h.Controllers
	}
	return append(slices.Clone(h.Controllers), "name="+h.Name)
}

// Names returns the hierarchy's names in policies: controllers, "name=systemd", "unified" for the v2 hierarchy.
func (h Hierarchy) Names() []string {
	names := slices.Clone(h.labels())
	if h.Version == V2 {
		names = append(names, Unified)
	}
	return names
}

// Holds reports that a name, one of Names, means this hierarchy.
func (h Hierarchy) Holds(name string) bool {
	return h.Version == V2 && name == Unified || slices.Contains(h.labels(), name)
}

// ControlFile finds the row of a control file of the hierarchy, that is, of one of its controllers or, on v2, of
// every cgroup. False for the files of every v1 cgroup, which identify no hierarchy.
func (h Hierarchy) ControlFile(file string) (ControlFile, bool) {
	row, ok := Lookup(h.Version, file)
	if row.Controller == "" {
		return row, ok && h.Version == V2
	}
	return row, ok && h.Holds(row.Controller)
}

// Symlinks returns the other names of the hierarchy's directory at the top of a view: "cpu" and "cpuacct" for
// "cpu,cpuacct".
func (h Hierarchy) Symlinks() []string {
	var links []string
	if h.Version == V1 {
		for _, c := range h.Controllers {
			if c != h.Dir {
				links = append(links, c)
			}
		}
	}
	return links
}

// Mount is a mounted cgroup file system, or a mounted view of one.
type Mount struct {
	ID       int // of the mount
	Version  Version
	Point    string
	Whole    bool // its root is the hierarchy's, in the reader's cgroup namespace
	ReadOnly bool
	Options  []string // of the superblock: a v1 hierarchy's controllers and name are among them
	View     bool     // a view mounted by root: of one hierarchy, or with a directory for each (Several)
	Several  bool     // it has a directory for each hierarchy
	Dir      string   // in a view of several: the mounted directory, "" for all
}

// ParseMounts finds the cgroup mounts and views in the text of /proc/<pid>/mountinfo. The error names a malformed
// line.
func ParseMounts(text []byte) ([]Mount, error) {
	infos, err := ReadMounts(bytes.NewReader(text), func(i *mountinfo.Info) (skip, stop bool) {
		kind := strings.TrimPrefix(i.FSType, viewType)
		return kind != "cgroup" && kind != "cgroup2", false
	})
	if err != nil {
		return nil, err
	}
	var mounts []Mount
	for _, i := range infos {
		m := Mount{
			ID: i.ID, Version: V1, Point: i.Mountpoint, Whole: i.Root == "/", Options: strings.Split(i.VFSOptions, ","),
			ReadOnly: slices.Contains(strings.Split(i.Options, ","), "ro"),
		}
		kind, fuse := strings.CutPrefix(i.FSType, viewType)
		if kind == "cgroup2" {
			m.Version = V2
		}
		if fuse {
			if !slices.Contains(m.Options, "user_id=0") {
				// Any user may mount one with fusermount, under any name.
				continue
			}
			m.View, m.Several = true, kind == "cgroup"
			if dir := strings.TrimPrefix(i.Root, "/"); m.Several && !strings.Contains(dir, "/") {
				m.Whole, m.Dir = true, dir
			}
		}
		mounts = append(mounts, m)
	}
	return mounts, nil
}

// viewType begins the types of views in mount tables; the type of the native file system follows.
const viewType = "fuse."

// Part is the mount of one directory of a view with several hierarchies.
func (m Mount) Part(point, dir string) Mount {
	m.Point, m.Dir, m.Version = point, dir, V1
	if dir == Unified {
		m.Version = V2
	}
	return m
}

// Assemble finds the host's hierarchies in both the mounts and the text of /proc/<pid>/cgroup. It omits a hierarchy
// that is mounted only in part, and prefers a writable mount. unifiedControllers is the text of the v2 root's
// cgroup.controllers. The order is that of their ids, v2 last.
func Assemble(mounts []Mount, cgroups []byte, unifiedControllers string) []Hierarchy {
	var all []Hierarchy
	for line := range strings.Lines(string(cgroups)) {
		id, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		labels, _, ok := strings.Cut(rest, ":")
		n, err := strconv.Atoi(id)
		if !ok || err != nil || n < 0 || (n == 0) != (labels == "") {
			continue
		}
		h := Hierarchy{Version: V2, ID: n, Controllers: strings.Fields(unifiedControllers)}
		if n > 0 {
			h.Version, h.Controllers, h.Name = V1, nil, ""
			for _, label := range strings.Split(labels, ",") {
				if name, named := strings.CutPrefix(label, "name="); named {
					h.Name = name
				} else {
					h.Controllers = append(h.Controllers, label)
				}
			}
		}
		if m, ok := mountOf(h, mounts); ok {
			h.Mountpoint, h.ReadOnly, h.View = m.Point, m.ReadOnly, m.View
			h.Dir = dirName(h)
			all = append(all, h)
		}
	}
	slices.SortStableFunc(all, func(a, b Hierarchy) int {
		if a.Version != b.Version {
			return int(a.Version - b.Version)
		}
		return a.ID - b.ID
	})
	return all
}

// mountOf chooses the mount to reach a hierarchy by.
func mountOf(h Hierarchy, mounts []Mount) (best Mount, found bool) {
	for _, m := range mounts {
		if m.Version != h.Version || !m.Whole || found && (m.ReadOnly || !best.ReadOnly) {
			continue
		}
		if h.Version == V2 || m.View && h.named(m.Dir) ||
			!m.View && !slices.ContainsFunc(h.labels(), func(l string) bool { return !slices.Contains(m.Options, l) }) {
			best, found = m, true
		}
	}
	return best, found
}

// named reports that a directory at the top of a view has the name of a v1 hierarchy (dirName).
func (h Hierarchy) named(dir string) bool {
	one := func(c string) bool { return slices.Contains(h.Controllers, c) }
	return dir == h.Name && dir != "" || slices.ContainsFunc(strings.Split(dir, ","), one)
}

// dirName returns the directory's name at the top of a view, as on the host if that is known.
func dirName(h Hierarchy) string {
	if h.Version == V2 {
		return Unified
	}
	name := path.Base(h.Mountpoint)
	if len(h.Controllers) == 0 && name != "" && name != "/" && name != "." {
		return name
	}
	if len(h.Controllers) == 0 {
		return h.Name
	}
	own := slices.Contains(h.Controllers, name) || name == strings.Join(h.Controllers, ",") ||
		sameWords(name, h.Controllers)
	if own {
		return name
	}
	return strings.Join(h.Controllers, ",")
}

// sameWords reports that a name lists the controllers in another order.
func sameWords(name string, controllers []string) bool {
	words := strings.Split(name, ",")
	if len(words) != len(controllers) {
		return false
	}
	return !slices.ContainsFunc(words, func(w string) bool { return !slices.Contains(controllers, w) })
}
