package kit

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// tempOf is the directory for temporary files of a run, whose paths may be those of sockets, and so are short.
func tempOf(pid string) string { return filepath.Join("/tmp", "vt-"+pid) }

// ofAnother matches the mounts of other runs, in their directories for temporary files.
var ofAnother = regexp.MustCompile(` ` + tempOf("([0-9]+)") + `/`)

// MountTable is the mount table of this process, as mountinfo has it, without the mounts of other runs.
func MountTable() string {
	var table strings.Builder
	for line := range strings.Lines(ReadFile("/proc/self/mountinfo")) {
		if m := ofAnother.FindStringSubmatch(line); m == nil || m[1] == strconv.Itoa(os.Getpid()) {
			table.WriteString(line)
		}
	}
	return table.String()
}

// IsFUSE says whether a FUSE file system is at a path, whatever type statfs gives it.
func IsFUSE(path string) bool {
	var st unix.Statx_t
	if unix.Statx(unix.AT_FDCWD, path, 0, 0, &st) != nil {
		return false
	}
	device := fmt.Sprintf("%d:%d", st.Dev_major, st.Dev_minor)
	for line := range strings.Lines(ReadFile("/proc/self/mountinfo")) {
		if f := strings.Fields(line); f[2] == device {
			return strings.Contains(line, " - fuse")
		}
	}
	return false
}

// KernelMount is a mount of the kernel's cgroups in a mountinfo.
type KernelMount struct{ At, Root, options, super string }

// ReadOnly reports whether the mount is read-only.
func (m KernelMount) ReadOnly() bool { return slices.Contains(strings.Split(m.options, ","), "ro") }

// KernelMounts are the mounts of the kernel's cgroups in a mountinfo.
func KernelMounts(mountinfo string) (all []KernelMount) {
	for line := range strings.Lines(mountinfo) {
		mount, super, _ := strings.Cut(strings.TrimSpace(line), " - ")
		f, s := strings.Fields(mount), strings.Fields(super)
		if len(s) == 3 && (s[0] == "cgroup" || s[0] == "cgroup2") {
			all = append(all, KernelMount{f[4], f[3], f[5], s[2]})
		}
	}
	return all
}

// IsMounted reports whether anything is mounted at a directory.
func IsMounted(dir string) bool {
	return strings.Contains(ReadFile("/proc/self/mountinfo"), " "+dir+" ")
}

// ViewsBelow are the mount points below a directory, from it, at which views are mounted.
func ViewsBelow(t testing.TB, dir string) (at []string) {
	t.Helper()
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	_, err = hierarchy.ReadMounts(f, func(m *mountinfo.Info) (skip, stop bool) {
		if rest, below := strings.CutPrefix(m.Mountpoint, dir); below && strings.HasPrefix(m.FSType, "fuse.cgroup") {
			at = append(at, rest)
		}
		return true, false
	})
	if err != nil {
		t.Fatal(err)
	}
	return at
}
