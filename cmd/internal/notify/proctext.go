package notify

import (
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// The texts of a task's cgroup, mountinfo and mounts in /proc, with a view's hierarchies in place of the host's. The
// forms are those of proc_cgroup_show (kernel/cgroup/cgroup.c), show_mountinfo and show_vfsmnt (fs/proc_namespace.c).

// position is a task's directory in a hierarchy, as the reader's cgroup namespace has it.
type position struct {
	hierarchy.Hierarchy
	path string
}

// cgroupText writes the lines of positions, the hierarchy with the highest ID first, as the kernel does.
func cgroupText(all []position) string {
	all = slices.Clone(all)
	slices.SortStableFunc(all, func(a, b position) int { return b.ID - a.ID })
	var b strings.Builder
	for _, p := range all {
		labels := ""
		if p.Version == hierarchy.V1 {
			labels = p.String()
		}
		b.WriteString(strconv.Itoa(p.ID) + ":" + labels + ":" + p.path + "\n")
	}
	return b.String()
}

// cgroupPath returns a task's path in a hierarchy of the host from the text of its cgroup file. False if it has none.
func cgroupPath(text string, h hierarchy.Hierarchy) (string, bool) {
	for line := range strings.Lines(text) {
		id, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		_, at, ok := strings.Cut(rest, ":")
		if ok && id == strconv.Itoa(h.ID) && strings.HasPrefix(at, "/") {
			return at, true
		}
	}
	return "", false
}

// relative returns a directory's path from another one, both clean, as kernfs_path_from_node writes it: one that is not
// below leads up first.
func relative(to, from string) string {
	up := ""
	for !isBelow(to, from) {
		up += "/.."
		from = path.Dir(from)
	}
	down := strings.TrimPrefix(to, strings.TrimSuffix(from, "/"))
	if down == "/" {
		down = ""
	}
	if up+down == "" {
		return "/"
	}
	return up + down
}

// mountTable rewrites the mounts of a view in mount tables.
type mountTable struct {
	device  uint64 // of the view, as by unix.Mkdev
	several bool   // the top of the view has a directory for each hierarchy
	parts   []Part
	roots   []string // of the reader's cgroup namespace in the parts
}

// mountLine is a line of mountinfo, or what stands for it, undecoded.
type mountLine struct {
	fields []string // id, parent, device, root, mount point, options, optional fields
	fstype string
	source string
	super  string // options of the superblock
}

// parseMountLine parses a line. False for none.
func parseMountLine(line string) (m mountLine, ok bool) {
	words := strings.Split(line, " ")
	const fixed = 6
	if len(words) < fixed+4 {
		return m, false
	}
	at := slices.Index(words[fixed:], "-") + fixed
	if at < fixed || len(words) != at+4 {
		return m, false
	}
	return mountLine{words[:at], words[at+1], words[at+2], words[at+3]}, true
}

func (m mountLine) text() string {
	return strings.Join(append(slices.Clone(m.fields), "-", m.fstype, m.source, m.super), " ") + "\n"
}

// Fields of a mountLine.
const (
	mountID = iota
	mountParent
	mountDevice
	mountRoot
	mountPoint
	mountOptions
	mountOptional
)

// ours reports a line of a mount of the view.
func (t *mountTable) ours(m mountLine) bool {
	device := strconv.Itoa(int(unix.Major(t.device))) + ":" + strconv.Itoa(int(unix.Minor(t.device)))
	return m.fields[mountDevice] == device && strings.HasPrefix(m.fstype, "fuse.cgroup")
}

// shown returns the lines that stand for one of the view; nil for a directory that is not known.
func (t *mountTable) shown(m mountLine) []mountLine {
	root := m.fields[mountRoot]
	if !t.several {
		if len(t.parts) != 1 {
			return nil
		}
		return []mountLine{t.line(m, 0, root)}
	}
	if root == "/" {
		return t.top(m)
	}
	for i, p := range t.parts {
		if dir := "/" + escapeMount(p.Dir); isBelow(root, dir) {
			return []mountLine{t.line(m, i, "/"+strings.TrimPrefix(strings.TrimPrefix(root, dir), "/"))}
		}
	}
	return nil
}

// line makes the line of a mount of a part's directory.
func (t *mountTable) line(m mountLine, part int, dir string) mountLine {
	p := t.parts[part]
	m.fields = slices.Clone(m.fields)
	m.fields[mountRoot] = relative(dir, escapeMount(t.roots[part]))
	m.fstype, m.source, m.super = typeV2, typeV2, "rw"
	if p.Version == hierarchy.V1 {
		m.fstype, m.source, m.super = typeV1, typeV1, "rw,"+p.String()
	}
	return m
}

// top makes the lines of a view of several hierarchies: a tmpfs, and a mount in it for each. The tmpfs has the id of
// the view's mount, which the ids of the others are made of.
func (t *mountTable) top(m mountLine) (lines []mountLine) {
	id, err := strconv.Atoi(m.fields[mountID])
	if err != nil || len(t.parts) > mountsOfTop {
		return nil
	}
	top := m
	top.fstype, top.source, top.super = "tmpfs", "tmpfs", "rw,mode=755"
	lines = append(lines, top)
	for i, p := range t.parts {
		one := t.line(m, i, "/")
		// Nothing propagates to these or from these.
		one.fields = one.fields[:mountOptional]
		one.fields[mountID] = strconv.Itoa(madeMount + id%(madeMount/mountsOfTop)*mountsOfTop + i)
		one.fields[mountParent] = m.fields[mountID]
		one.fields[mountPoint] = strings.TrimSuffix(m.fields[mountPoint], "/") + "/" + escapeMount(p.Dir)
		lines = append(lines, one)
	}
	return lines
}

// The ids of mounts that are none: above those of the kernel, which are the lowest free ones, and an int of 32 bits.
const (
	madeMount   = 1 << 30
	mountsOfTop = 64
)

// mountinfo rewrites the text of mountinfo. standing are the lines of the view's mounts and those that stand for them.
// Other lines stay as they are.
func (t *mountTable) mountinfo(text string) (shown string, standing map[string][]mountLine) {
	var b strings.Builder
	standing = map[string][]mountLine{}
	for line := range strings.Lines(text) {
		m, ok := parseMountLine(strings.TrimSuffix(line, "\n"))
		if !ok || !t.ours(m) {
			b.WriteString(line)
			continue
		}
		lines := t.shown(m)
		if lines == nil {
			b.WriteString(line)
			continue
		}
		standing[m.fields[mountPoint]+" "+m.fstype] = lines
		for _, one := range lines {
			b.WriteString(one.text())
		}
	}
	return b.String(), standing
}

// mounts rewrites the text of mounts, of the same moment as that of mountinfo.
func (t *mountTable) mounts(text, mountinfo string) string {
	_, standing := t.mountinfo(mountinfo)
	var b strings.Builder
	for line := range strings.Lines(text) {
		// Source, mount point, type, options, and two zeros.
		words := strings.Split(strings.TrimSuffix(line, "\n"), " ")
		var lines []mountLine
		if len(words) == 6 {
			lines = standing[words[1]+" "+words[2]]
		}
		if lines == nil {
			b.WriteString(line)
			continue
		}
		for _, m := range lines {
			options := m.fields[mountOptions]
			if _, more, ok := strings.Cut(m.super, ","); ok {
				options += "," + more
			}
			b.WriteString(strings.Join([]string{m.source, m.fields[mountPoint], m.fstype, options, "0 0\n"}, " "))
		}
	}
	return b.String()
}

// escapeMount encodes a path as mangle does in fs/proc_namespace.c.
func escapeMount(s string) string {
	return strings.NewReplacer(" ", `\040`, "\t", `\011`, "\n", `\012`, `\`, `\134`).Replace(s)
}
