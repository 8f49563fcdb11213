package notify

import (
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

var (
	v2Host      = hierarchy.Hierarchy{Version: hierarchy.V2, Dir: "unified"}
	cpuPart     = Part{Hierarchy: hierarchy.Hierarchy{Version: hierarchy.V1, ID: 2, Controllers: []string{"cpu", "cpuacct"}, Dir: "cpu,cpuacct"}, Host: v2Host, Boundary: "/m/web"}
	memoryPart  = Part{Hierarchy: hierarchy.Hierarchy{Version: hierarchy.V1, ID: 8, Controllers: []string{"memory"}, Dir: "memory"}, Host: v2Host, Boundary: "/m/web"}
	systemdPart = Part{Hierarchy: hierarchy.Hierarchy{Version: hierarchy.V1, ID: 1, Name: "systemd", Dir: "systemd"}, Host: v2Host, Boundary: "/m/web"}
)

// TestCgroupText: the lines of a task of a session on CentOS 7 (Linux 3.10), and of one on a hybrid host.
func TestCgroupText(t *testing.T) {
	const centos = "8:memory:/\n2:cpu,cpuacct:/user.slice\n1:name=systemd:/user.slice/user-0.slice/session-1.scope\n"
	at := []position{
		{systemdPart.Hierarchy, "/user.slice/user-0.slice/session-1.scope"}, {cpuPart.Hierarchy, "/user.slice"}, {memoryPart.Hierarchy, "/"},
	}
	if got := cgroupText(at); got != centos {
		t.Errorf("%q, want %q", got, centos)
	}
	hybrid := append([]position{{v2Host, "/a"}}, at...)
	if got := cgroupText(hybrid); got != centos+"0::/a\n" {
		t.Errorf("hybrid: %q", got)
	}
	for _, p := range hybrid {
		if got, ok := cgroupPath(centos+"0::/a\n", p.Hierarchy); !ok || got != p.path {
			t.Errorf("%s: %q, %v", p, got, ok)
		}
	}
	for _, text := range []string{"", "0::", "8:memory", "80:memory:/\n", "8\n", "8:memory:a\n"} {
		if got, ok := cgroupPath(text, memoryPart.Hierarchy); ok {
			t.Errorf("%q: %q", text, got)
		}
	}
}

// TestRelative: paths are as natively in a cgroup namespace.
func TestRelative(t *testing.T) {
	for _, c := range [][3]string{
		{"/", "/", "/"}, {"/a", "/", "/a"}, {"/a/b", "/a", "/b"}, {"/a", "/a", "/"}, {"/", "/a", "/.."}, {"/b", "/a", "/../b"},
		{"/ab", "/a", "/../ab"}, {"/a/c/d", "/a/b", "/../c/d"}, {"/", "/a/b", "/../.."},
	} {
		if got := relative(c[0], c[1]); got != c[2] {
			t.Errorf("%s from %s: %s, want %s", c[0], c[1], got, c[2])
		}
	}
}

// TestVisible: no leaf shows.
func TestVisible(t *testing.T) {
	two := Part{Hierarchy: v2Host, Host: v2Host}
	genuine := Part{Hierarchy: memoryPart.Hierarchy, Host: memoryPart.Hierarchy}
	for _, c := range []struct {
		p           Part
		below, want string
	}{
		{memoryPart, "", "/"}, {memoryPart, "/a/.vcgroupfs", "/a"}, {memoryPart, "/.vcgroupfs", "/"}, {memoryPart, "/a.vcgroupfs/b", "/a.vcgroupfs/b"},
		{two, "/.vcgroupfs", "/"}, {two, "/.vcgroupfs/a", "/a"}, {two, "/a/.vcgroupfs", "/a/.vcgroupfs"}, {genuine, "/.vcgroupfs", "/.vcgroupfs"},
	} {
		if got := c.p.visible(c.below); got != c.want {
			t.Errorf("%s %q: %q, want %q", c.p, c.below, got, c.want)
		}
	}
}

// viewTable has a view at device 0:39, whose reader's cgroup namespace is rooted at the boundary.
func viewTable(parts ...Part) *mountTable {
	return &mountTable{device: unix.Mkdev(0, 39), several: true, parts: parts, roots: slices.Repeat([]string{"/"}, len(parts))}
}

const (
	mountsBefore = "25 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw,errors=remount-ro\n" +
		"31 23 0:26 / /sys rw,nosuid,nodev,noexec,relatime shared:7 - sysfs sysfs rw\n"
	mountsAfter = "60 50 0:44 /cgroups /proc/cgroups ro,nosuid,nodev,noexec,relatime - tmpfs vcgroupfs ro,size=64k,mode=755\n"
	viewOptions = "rw,nosuid,nodev,noexec,relatime"
	viewSuper   = "fuse.cgroup vcgroupfs rw,user_id=0,group_id=0,default_permissions,allow_other"
)

// TestMountinfo: the lines are those of a host with v1 (CentOS 7, Linux 3.10), and all others are as they were.
func TestMountinfo(t *testing.T) {
	view := "42 31 0:39 / /sys/fs/cgroup " + viewOptions + " shared:8 - " + viewSuper + "\n"
	table := viewTable(systemdPart, cpuPart, memoryPart)
	got, _ := table.mountinfo(mountsBefore + view + mountsAfter)
	want := mountsBefore +
		"42 31 0:39 / /sys/fs/cgroup " + viewOptions + " shared:8 - tmpfs tmpfs rw,mode=755\n" +
		"1073744512 42 0:39 / /sys/fs/cgroup/systemd " + viewOptions + " - cgroup cgroup rw,name=systemd\n" +
		"1073744513 42 0:39 / /sys/fs/cgroup/cpu,cpuacct " + viewOptions + " - cgroup cgroup rw,cpu,cpuacct\n" +
		"1073744514 42 0:39 / /sys/fs/cgroup/memory " + viewOptions + " - cgroup cgroup rw,memory\n" + mountsAfter
	if got != want {
		t.Errorf("%s, want %s", got, want)
	}
	all, err := hierarchy.ParseMounts([]byte(got))
	if err != nil || len(all) != 3 {
		t.Fatalf("%+v, %v", all, err)
	}
	// As the host's own hierarchies are found.
	cgroups := cgroupText([]position{{systemdPart.Hierarchy, "/"}, {cpuPart.Hierarchy, "/"}, {memoryPart.Hierarchy, "/"}})
	found := hierarchy.Assemble(all, []byte(cgroups), "")
	if len(found) != 3 || found[2].String() != "memory" || found[2].Mountpoint != "/sys/fs/cgroup/memory" || found[1].String() != "cpu,cpuacct" {
		t.Errorf("found %+v", found)
	}
}

// TestMountinfoPart: a mount of one hierarchy, or of a directory in it, from the reader's cgroup namespace.
func TestMountinfoPart(t *testing.T) {
	table := viewTable(cpuPart, memoryPart)
	table.roots[1] = "/a"
	for root, want := range map[string]string{
		"/memory/a": "/ /mnt", "/memory/a/b": "/b /mnt", "/memory": "/.. /mnt", "/memory/b": "/../b /mnt", `/memory/a\040b`: `/../a\040b /mnt`,
	} {
		line := "70 31 0:39 " + root + " /mnt ro,relatime - " + viewSuper + "\n"
		got, _ := table.mountinfo(line)
		if want := "70 31 0:39 " + want + " ro,relatime - cgroup cgroup rw,memory\n"; got != want {
			t.Errorf("%s: %q, want %q", root, got, want)
		}
	}
	if got, _ := table.mountinfo("70 31 0:39 /cpu,cpuacct/x /mnt ro - " + viewSuper + "\n"); !strings.HasSuffix(got, " /x /mnt ro - cgroup cgroup rw,cpu,cpuacct\n") {
		t.Errorf("cpu: %q", got)
	}
	one := &mountTable{device: unix.Mkdev(0, 39), parts: []Part{{Hierarchy: v2Host, Host: v2Host}}, roots: []string{"/"}}
	got, _ := one.mountinfo("42 31 0:39 / /sys/fs/cgroup rw - fuse.cgroup2 vcgroupfs rw,user_id=0\n")
	if want := "42 31 0:39 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"; got != want {
		t.Errorf("v2: %q, want %q", got, want)
	}
}

// TestMountinfoOthers: no line but the view's changes, however it looks.
func TestMountinfoOthers(t *testing.T) {
	for _, line := range []string{
		"70 31 0:40 / /mnt rw - " + viewSuper, // another view
		"70 31 0:39 / /mnt rw - ext4 x rw", "70 31 0:39 /net_cls /mnt rw - " + viewSuper, "70 31 0:39 /memoryx /mnt rw - " + viewSuper,
		"70 31 0:39 / /mnt rw " + viewSuper, "70 31 0:39 / /mnt rw - fuse.cgroup x", "x", "", "70 31 0:39 / - rw shared:1 - fuse.cgroup",
		"x 31 0:39 / /mnt rw - " + viewSuper,
	} {
		if got, standing := viewTable(memoryPart).mountinfo(line); got != line || len(standing) != 0 {
			t.Errorf("%q became %q", line, got)
		}
	}
}

// TestMounts: the same, as in /proc/mounts.
func TestMounts(t *testing.T) {
	info := mountsBefore + "42 31 0:39 / /sys/fs/cgroup " + viewOptions + " - " + viewSuper + "\n" + mountsAfter
	before := "/dev/vda1 / ext4 rw,relatime,errors=remount-ro 0 0\nsysfs /sys sysfs " + viewOptions + " 0 0\n"
	after := "vcgroupfs /proc/cgroups tmpfs ro,nosuid,nodev,noexec,relatime,size=64k,mode=755 0 0\n"
	view := "vcgroupfs /sys/fs/cgroup fuse.cgroup " + viewOptions + ",user_id=0,group_id=0,default_permissions,allow_other 0 0\n"
	got := viewTable(systemdPart, memoryPart).mounts(before+view+after, info)
	want := before + "tmpfs /sys/fs/cgroup tmpfs " + viewOptions + ",mode=755 0 0\n" +
		"cgroup /sys/fs/cgroup/systemd cgroup " + viewOptions + ",name=systemd 0 0\n" +
		"cgroup /sys/fs/cgroup/memory cgroup " + viewOptions + ",memory 0 0\n" + after
	if got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// FuzzMountinfo: whatever the table, lines of others stay, ids do not repeat if they did not, and nothing fails.
func FuzzMountinfo(f *testing.F) {
	f.Add(mountsBefore + "42 31 0:39 / /sys/fs/cgroup rw - " + viewSuper + "\n" + mountsAfter)
	f.Add("42 31 0:39 /memory/a\\040b /x rw shared:1 master:2 - " + viewSuper + "\n43 31 0:39 / / rw - " + viewSuper)
	f.Fuzz(func(t *testing.T, text string) {
		table := viewTable(systemdPart, memoryPart)
		got, standing := table.mountinfo(text)
		if len(standing) == 0 && got != text {
			t.Errorf("%q became %q", text, got)
		}
		table.mounts(text, text)
		ids := func(text string) (all []int) {
			for line := range strings.Lines(text) {
				if m, ok := parseMountLine(strings.TrimSuffix(line, "\n")); ok {
					if id, err := strconv.Atoi(m.fields[mountID]); err == nil && id >= 0 && id < madeMount/mountsOfTop {
						all = append(all, id)
					}
				}
			}
			slices.Sort(all)
			return all
		}
		if was, is := ids(text), ids(got); len(slices.Compact(slices.Clone(was))) == len(was) && len(slices.Compact(slices.Clone(is))) != len(is) {
			t.Errorf("%q has ids %v, and became %q with %v", text, was, got, is)
		}
	})
}
