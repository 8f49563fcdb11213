package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// attempt is one thing that a hostile guest tries. do returns what it got; want is the errno that it must be ("" success).
// After each attempt the host's state must be what it was before.
type attempt struct {
	name string
	want string
	do   func() error
}

// target is a limit file of the boundary as the guest sees it, and a value that would raise it.
type target struct {
	path  string
	value string
}

// writeAttempts are all the ways to write one limit. EPERM comes at open; what slips by with a read-only descriptor is the
// kernel's EBADF.
func writeAttempts(t target) []attempt {
	name := filepath.Base(t.path)
	open := func(flags int) func() error {
		return func() error { return kit.WithFile(t.path, flags, kit.WriteFD(t.value)) }
	}
	reading := func(do func(fd int) error) func() error {
		return func() error { return kit.WithFile(t.path, unix.O_RDONLY, do) }
	}
	list := []attempt{
		{"> without truncation", "EPERM", open(unix.O_WRONLY)},
		{">", "EPERM", open(unix.O_WRONLY | unix.O_CREAT | unix.O_TRUNC)},
		{">>", "EPERM", open(unix.O_WRONLY | unix.O_CREAT | unix.O_APPEND)},
		{"O_RDWR", "EPERM", open(unix.O_RDWR)},
		{"O_RDWR|O_NONBLOCK|O_SYNC", "EPERM", open(unix.O_RDWR | unix.O_NONBLOCK | unix.O_SYNC)},
		{"dd conv=notrunc oflag=direct", "EPERM", open(unix.O_WRONLY | unix.O_DIRECT)},
		{"write to a reading descriptor", "EBADF", reading(kit.WriteFD(t.value))},
		{"pwrite to a reading descriptor", "EBADF", reading(func(fd int) error {
			_, err := unix.Pwrite(fd, []byte(t.value), 7)
			return err
		})},
		{"writev to a reading descriptor", "EBADF", reading(func(fd int) error {
			_, err := unix.Writev(fd, [][]byte{[]byte(t.value[:1]), []byte(t.value[1:])})
			return err
		})},
		{"sendfile into a reading descriptor", "EBADF", reading(func(fd int) error {
			return kit.WithFile("/proc/self/status", unix.O_RDONLY, func(in int) error {
				_, err := unix.Sendfile(fd, in, nil, 16)
				return err
			})
		})},
		{"splice into a reading descriptor", "EBADF", reading(func(fd int) error {
			var p [2]int
			if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
				return err
			}
			defer unix.Close(p[0])
			defer unix.Close(p[1])
			unix.Write(p[1], []byte(t.value))
			_, err := unix.Splice(p[0], nil, fd, nil, len(t.value), 0)
			return err
		})},
		{"copy_file_range into a reading descriptor", "EBADF", reading(func(fd int) error {
			return kit.WithFile("/proc/self/exe", unix.O_RDONLY, func(in int) error {
				_, err := unix.CopyFileRange(in, nil, fd, nil, 4, 0)
				return err
			})
		})},
		{"mmap shared and writable", "EACCES", reading(func(fd int) error {
			m, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			if err == nil {
				unix.Munmap(m)
			}
			return err
		})},
		{"io_uring openat for writing", "EPERM", func() error { return uringOpen(t.path, unix.O_WRONLY) }},
		{"reopening a reading descriptor for writing", "EPERM", reading(func(fd int) error {
			return kit.WithFile("/proc/self/fd/"+strconv.Itoa(fd), unix.O_WRONLY, kit.WriteFD(t.value))
		})},
		{"reopening an O_PATH descriptor for writing", "EPERM", func() error {
			return kit.WithFile(t.path, unix.O_PATH, func(fd int) error {
				return kit.WithFile("/proc/self/fd/"+strconv.Itoa(fd), unix.O_RDWR, kit.WriteFD(t.value))
			})
		}},
		{"truncate", "EPERM", func() error { return unix.Truncate(t.path, 0) }},
		{"chmod", "EPERM", func() error { return unix.Chmod(t.path, 0o777) }},
		{"chown", "EPERM", func() error { return unix.Chown(t.path, someUser(), someUser()) }},
		{"utimes", "EPERM", func() error { return unix.Utimes(t.path, []unix.Timeval{{Sec: 1}, {Sec: 1}}) }},
		{"unlink", "EPERM", func() error { return unix.Unlink(t.path) }},
		{"rename over it", "EPERM|ENOTDIR", func() error { return unix.Rename(t.path, t.path+"2") }},
		{"link", "EPERM", func() error { return unix.Link(t.path, t.path+"2") }},
		{"setxattr user", "EPERM", func() error { return unix.Setxattr(t.path, "user.x", []byte("1"), 0) }},
		{"setxattr trusted.vcgroupfs", "EPERM", func() error {
			return unix.Setxattr(t.path, "trusted.vcgroupfs.owner", []byte("0 0 777"), 0)
		}},
		{"removexattr trusted.vcgroupfs", "EPERM", func() error {
			return unix.Removexattr(t.path, "trusted.vcgroupfs.owner")
		}},
		{"bind mount of the file, then write", "EPERM", func() error { return boundFile(t) }},
	}
	if hasUser(otherUser) {
		list = append(list,
			attempt{"a descriptor opened by a less privileged task", "EBADF", func() error { return passedDescriptor(t, true) }},
			attempt{"a descriptor opened by a more privileged task", "EBADF", func() error { return passedDescriptor(t, false) }})
	}
	for i := range list {
		list[i].name = name + ": " + list[i].name
	}
	return list
}

const otherUser = 1000

// hasUser says whether this user namespace has a uid. Bubblewrap's have one only.
func hasUser(uid int) bool {
	for line := range strings.Lines(kit.ReadFile("/proc/self/uid_map")) {
		var inside, outside, count int
		if n, _ := fmt.Sscan(line, &inside, &outside, &count); n == 3 && uid >= inside && uid-inside < count {
			return true
		}
	}
	return false
}

// someUser is a uid to give something to.
func someUser() int {
	if hasUser(1000) {
		return 1000
	}
	return 0
}

// passedDescriptor has a reading descriptor opened under another uid and written to under the present one.
func passedDescriptor(t target, less bool) error {
	var fd int
	var err error
	open := func() { fd, err = unix.Open(t.path, unix.O_RDONLY|unix.O_CLOEXEC, 0) }
	write := func() {
		if err == nil {
			_, err = unix.Write(fd, []byte(t.value))
			unix.Close(fd)
		}
	}
	if less {
		kit.AsUser(otherUser, open)
		write()
	} else {
		open()
		kit.AsUser(otherUser, write)
	}
	return err
}

// boundFile bind-mounts the limit over a file elsewhere and writes there.
func boundFile(t target) error {
	dir, err := os.MkdirTemp("", "hostile")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	other := filepath.Join(dir, "f")
	if err := os.WriteFile(other, nil, 0o644); err != nil {
		return err
	}
	if err := unix.Mount(t.path, other, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	defer unix.Unmount(other, unix.MNT_DETACH)
	return kit.WithFile(other, unix.O_WRONLY, kit.WriteFD(t.value))
}

// nameAttempts are the names that a guest may not make in a directory, and tricks with paths.
func nameAttempts(dir string) []attempt {
	mk := func(name, want string) attempt {
		return attempt{fmt.Sprintf("mkdir %.20q", name), want, func() error {
			err := unix.Mkdir(filepath.Join(dir, name), 0o755)
			if err == nil {
				unix.Rmdir(filepath.Join(dir, name))
			}
			return err
		}}
	}
	legacy := "EINVAL" // control files of v1; on v2 a cgroup may have the name
	// The v1 hierarchies that lend a v2 tree its controllers have the file.
	lent := kit.Exists(filepath.Join(dir, "memory.max")) && strings.Contains(kit.ReadFile("/proc/self/cgroup"), ":memory:")
	if kit.Exists(filepath.Join(dir, "cgroup.controllers")) && !lent {
		legacy = ""
	}
	return []attempt{
		mk("cgroup.evil", "EINVAL"), mk("io.max2", "EINVAL"), mk("memory.evil", "EINVAL"), mk("hugetlb.1GB.evil", "EINVAL"),
		mk("rdma.evil", "EINVAL"), mk("misc.evil", "EINVAL"), mk("dmem.evil", "EINVAL"), mk("irq.evil", "EINVAL"),
		mk("release_agent", legacy), mk(".vcgroupfs", "EINVAL|EEXIST"), mk("a\nb", "EINVAL"),
		mk(strings.Repeat("x", 256), "ENAMETOOLONG"), mk(strings.Repeat("x", 4000), "ENAMETOOLONG"),
		{"create a file", "EACCES", func() error {
			return kit.WithFile(filepath.Join(dir, "f"), unix.O_CREAT|unix.O_WRONLY, kit.WriteFD("x"))
		}},
		{"mknod", "EACCES|EPERM", func() error { return unix.Mknod(filepath.Join(dir, "n"), unix.S_IFCHR|0o666, 5) }},
		{"symlink out", "EPERM", func() error { return unix.Symlink("/", filepath.Join(dir, "l")) }},
		{"O_TMPFILE", "EOPNOTSUPP", func() error { return kit.WithFile(dir, unix.O_TMPFILE|unix.O_RDWR, kit.WriteFD("x")) }},
		{"chmod of the root", "EPERM", func() error { return unix.Chmod(dir, 0o777) }},
		{"chown of the root", "EPERM", func() error { return unix.Chown(dir, someUser(), someUser()) }},
		{"setxattr on the root", "EPERM", func() error { return unix.Setxattr(dir, "user.oomd_omit", []byte("1"), 0) }},
		{"setxattr security", "EOPNOTSUPP|EPERM", func() error { return unix.Setxattr(dir, "security.evil", []byte("1"), 0) }},
		{"name_to_handle_at", "EOPNOTSUPP|", func() error { // before Linux 6.9 it is FUSE's own
			_, _, err := unix.NameToHandleAt(unix.AT_FDCWD, dir, 0)
			return err
		}},
		{"open_by_handle_at of a forged handle", "ESTALE|EOPNOTSUPP|EPERM", func() error {
			return kit.WithFile(dir, unix.O_RDONLY|unix.O_DIRECTORY, func(fd int) error {
				h := unix.NewFileHandle(0x81, make([]byte, 12))
				n, err := unix.OpenByHandleAt(fd, h, unix.O_RDONLY)
				if err == nil {
					unix.Close(n)
				}
				return err
			})
		}},
		{"open_by_handle_at of a cgroup id", "ESTALE|EOPNOTSUPP|EINVAL|EPERM", func() error {
			return kit.WithFile(dir, unix.O_RDONLY|unix.O_DIRECTORY, func(fd int) error {
				h := unix.NewFileHandle(0xfe, []byte{1, 0, 0, 0, 0, 0, 0, 0})
				n, err := unix.OpenByHandleAt(fd, h, unix.O_RDONLY)
				if err == nil {
					unix.Close(n)
				}
				return err
			})
		}},
		{"rmdir of the root", "EBUSY|EPERM|EACCES|EROFS", func() error { return unix.Rmdir(dir) }},
	}
}

// numbered matches the cgroups of guests that other processes have made: another run of the tests, which may be beside this one.
var numbered = regexp.MustCompile(`^(?:run|hostile-.*)-([0-9]+)$`)

// hostState is everything of real cgroup directories that a guest must not change: names, owners, modes, attributes and
// the content of every file that can be written, but for membership, which processes end by themselves.
func hostState(dirs ...string) string {
	var b strings.Builder
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir)
		fmt.Fprintln(&b, dir, kit.ErrnoName(err))
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			var st unix.Stat_t
			if m := numbered.FindStringSubmatch(e.Name()); m != nil && m[1] != strconv.Itoa(os.Getpid()) || unix.Lstat(path, &st) != nil {
				continue
			}
			fmt.Fprintf(&b, "%s %o %d:%d", e.Name(), st.Mode, st.Uid, st.Gid)
			var list [4096]byte
			n, _ := unix.Llistxattr(path, list[:])
			fmt.Fprintf(&b, " %q", list[:max(n, 0)])
			if st.Mode&unix.S_IFMT == unix.S_IFREG && st.Mode&0o222 != 0 && st.Mode&0o444 != 0 && !volatile(e.Name()) {
				raw, _ := os.ReadFile(path)
				fmt.Fprintf(&b, " %q", raw)
			}
			fmt.Fprintln(&b)
		}
	}
	return b.String()
}

// volatile says whether a writable file changes by itself.
func volatile(name string) bool {
	switch name {
	case "cgroup.procs", "cgroup.threads", "tasks", "cpuacct.usage", "memory.oom_control":
		return true
	}
	return strings.Contains(name, "max_usage") || strings.HasSuffix(name, ".peak") || strings.HasSuffix(name, ".failcnt") ||
		strings.HasSuffix(name, ".pressure")
}
