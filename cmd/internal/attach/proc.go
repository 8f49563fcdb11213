package attach

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/policy"
)

// CgroupsPath is a file that no namespace bounds: it names every controller of the host and counts its cgroups.
const CgroupsPath = "/proc/cgroups"

// CgroupsText returns /proc/cgroups for a guest: permitted controllers only, without the number of the host's cgroups.
// "" if the kernel has no such file. In a layout in which v1 hierarchies stand for the host's v2 hierarchy, their
// controllers have the numbers of those; in one whose v2 tree has the controllers of v1 hierarchies, all have 0, the
// number of v2. The error is of reading the file.
func CgroupsText(h *host.Host, p *policy.Policy, layout hierarchy.Layout) (string, error) {
	raw, err := os.ReadFile(CgroupsPath)
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	var v2 []string
	if t := h.Hierarchy(hierarchy.Unified); t != nil {
		v2 = t.Controllers
	}
	var all []hierarchy.Hierarchy
	for _, t := range h.Hierarchies() {
		all = append(all, t.Hierarchy)
	}
	for _, t := range all {
		if layout.Translates(t) {
			p = p.Legacy()
			shown := layout.Shown(t, all, p.Controllers())
			hierarchy.Number(shown, all)
			return translatedCgroups(filterCgroups(string(raw), p.Permits, nil), shown), err
		}
	}
	if layout == hierarchy.LayoutV2 && len(all) > 1 {
		return lentCgroups(string(raw), p.Permits, all, v2), err
	}
	return filterCgroups(string(raw), p.Permits, v2), err
}

// lentCgroups is filterCgroups for a v2 tree that has the controllers of v1 hierarchies, too. A controller of a v1
// hierarchy that lends it not is left out, since the tree does not have it.
func lentCgroups(text string, permits func(string) bool, all []hierarchy.Hierarchy, v2 []string) string {
	has := slices.Clone(v2)
	for _, t := range all {
		has = append(has, t.Lends()...)
	}
	var lacks []string
	for _, c := range hierarchy.KnownControllers() {
		if hierarchy.UnifiedController(c) && !slices.Contains(has, c) {
			lacks = append(lacks, hierarchy.LegacyNames(c)...)
		}
	}
	text = filterCgroups(text, func(name string) bool { return permits(name) && !slices.Contains(lacks, name) }, has)
	var b strings.Builder
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) == 4 && !strings.HasPrefix(line, "#") {
			f[1] = "0"
			line = strings.Join(f, "\t") + "\n"
		}
		b.WriteString(line)
	}
	return b.String()
}

// translatedCgroups gives the controllers of v1 hierarchies that stand for v2 their lines.
func translatedCgroups(text string, shown []hierarchy.Hierarchy) string {
	lines := map[string]string{}
	var order []string
	for _, t := range shown {
		for _, c := range t.Controllers {
			lines[c] = fmt.Sprintf("%s\t%d\t1\t1\n", c, t.ID)
			order = append(order, c)
		}
	}
	var b strings.Builder
	for line := range strings.Lines(text) {
		name, _, _ := strings.Cut(line, "\t")
		if _, ok := lines[name]; !ok {
			b.WriteString(line)
		}
	}
	for _, c := range order {
		b.WriteString(lines[c])
	}
	return b.String()
}

// filterCgroups keeps the lines of /proc/cgroups ("name hierarchy num_cgroups enabled") for which permits holds, each
// with one cgroup. It adds the controllers that a kernel built without their v1 part leaves out (CONFIG_MEMCG_V1, Linux
// 6.11): programs look there whether v2 has them.
func filterCgroups(text string, permits func(string) bool, v2 []string) string {
	// In the order of v2.
	var add []string
	for _, c := range v2 {
		if permits(c) {
			add = append(add, hierarchy.LegacyNames(c)...)
		}
	}
	var b strings.Builder
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		switch {
		case strings.HasPrefix(line, "#"):
			b.WriteString(line)
		case len(f) == 4 && (permits(f[0]) || slices.Contains(add, f[0])):
			f[2] = "1"
			b.WriteString(strings.Join(f, "\t") + "\n")
			add = slices.DeleteFunc(add, func(name string) bool { return name == f[0] })
		}
	}
	for _, name := range add {
		b.WriteString(name + "\t0\t1\t1\n")
	}
	return b.String()
}

// The file over a guest's /proc/cgroups is the only one of a tmpfs, and disappears with its last mount. The guest's
// mountinfo shows these names.
const (
	cgroupsSource = "vcgroupfs"
	cgroupsFile   = "cgroups"
)

// overCgroups returns the place of that file. The kernel's own file stays below.
func (in Inside) overCgroups() Inside {
	return Inside{Pid: in.Pid, Start: in.Start, Rootfs: in.Rootfs, Later: in.Later, Path: CgroupsPath, Stack: StackAll,
		file: true}
}

// attachCgroups puts the file over the guest's /proc/cgroups, unless it is there. fresh reports that it was not.
func (in Inside) attachCgroups() (fresh bool, err error) {
	if in.Cgroups == "" {
		return false, nil
	}
	file, err := CgroupsMount(in.Work, in.Cgroups)
	if err == nil {
		over := in.overCgroups()
		fresh, err = over.do(func(p *place) (bool, error) {
			if is, err := p.isCgroups(); err != nil || is {
				return false, err
			}
			return true, over.put(file, -1, p)
		}, func() { unix.Close(file) })
	}
	if err != nil {
		return false, fmt.Errorf("cannot put a file over %s of process %d: %w", CgroupsPath, in.Pid, err)
	}
	return fresh, nil
}

// detachCgroups unmounts the file if it is there.
func (in Inside) detachCgroups() error {
	if in.Cgroups == "" {
		return nil
	}
	return in.overCgroups().unmountOurs((*place).isCgroups)
}

// isCgroups reports that the mount at the place is our file.
func (p *place) isCgroups() (bool, error) {
	now, err := p.mount()
	if err != nil || !now.covered {
		return false, err
	}
	for _, m := range now.table {
		if m.ID == now.id {
			return m.FSType == "tmpfs" && m.Source == cgroupsSource && m.Root == "/"+cgroupsFile, nil
		}
	}
	return false, nil
}

// CgroupsMount makes a mount, attached nowhere, of a file with the text. Nobody can write it: the file system itself is
// read-only. The tmpfs is mounted on a directory in a mount namespace of one thread, so nothing remains of it even if
// this process dies. The error is of the failed call.
func CgroupsMount(dir, text string) (fd int, err error) {
	const safe = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	const options = "mode=755,size=64k"
	err = host.OnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return os.NewSyscallError("unshare", err)
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return PathError("mount", "/", err)
		}
		if err := unix.Mount(cgroupsSource, dir, "tmpfs", safe, options); err != nil {
			return PathError("mount", dir, err)
		}
		file := filepath.Join(dir, cgroupsFile)
		// Chmod undoes the umask.
		if err := errors.Join(os.WriteFile(file, []byte(text), 0o444), os.Chmod(file, 0o444)); err != nil {
			return err
		}
		if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY|safe, options); err != nil {
			return PathError("mount", dir, err)
		}
		fd, err = unix.OpenTree(unix.AT_FDCWD, file, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		return PathError("open_tree", file, err)
	})
	return fd, err
}
