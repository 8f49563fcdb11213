package integration

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// What a hostile guest tries from the inside: this runs in the guest, as the test binary in the role "hostile".

// hostilePolicy gives the guest of the suite small quotas, so that bombs are quick.
const hostilePolicy = "version: 1\nquota: {cgroups: 40, depth: 4}\n"

// playHostile does attempt after attempt. For each it prints the name, what it wants and what it got, and what the type of its view is
// ("right", or digits), and waits for a line: outside, the host's state is looked at meanwhile. The form is how it runs: privileged,
// userns (a user namespace), plain (the host's root with few capabilities), and by the daemon, confined (with few capabilities) or answered.
func playHostile(arg string) {
	form, stranger, _ := strings.Cut(arg, " ")
	runtime.LockOSThread()
	in := bufio.NewReader(os.Stdin)
	byDaemon, userns := strings.HasPrefix(form, "daemon-"), strings.HasSuffix(form, "userns")
	kept := keptAttempts(byDaemon, stranger) // whose descriptors are opened before all else happens
	part := answeredPart()
	view, err := unix.Open(part.root, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		panic(err)
	}
	list := append(guestAttempts(userns, stranger), kept...)
	if strings.HasPrefix(form, "answered-") {
		list = append(list, answeredAttempts(userns, stranger)...)
	}
	if userns || form == "plain" {
		list = append(list, aroundAttempts(userns)...)
		list = append(list, mountAttempts()...) // last: they may take the view away
	}
	for _, a := range list {
		got := strings.ReplaceAll(kit.ErrnoName(a.do()), "\n", "; ")
		fmt.Printf("%s\t%s\t%s\t%s\n", a.name, a.want, got, part.typeNow(view))
		if _, err := in.ReadString('\n'); err != nil {
			return
		}
	}
	fmt.Println("end")
}

// ioAsBlkio tells a guest that its view shows the host's io as blkio.
const ioAsBlkio = "VCGROUPFS_TEST_BLKIO"

// guestTargets are the limits of the boundary, with values that would raise them, as far as this kernel has them.
func guestTargets() []target {
	var out []target
	for _, t := range []target{
		{"pids/pids.max", "max"}, {"memory/memory.limit_in_bytes", "-1"}, {"cpu/cpu.shares", "262144"}, {"cpu/cpu.cfs_quota_us", "-1"},
		{"cpuset/cpuset.cpus", "0"}, {"freezer/freezer.state", "FROZEN"}, {"memory/memory.oom_control", "1"}, {"devices/devices.deny", "a"},
		{"pids.max", "max"}, {"memory.max", "max"}, {"memory.high", "0"}, {"memory.min", "1G"}, {"cpu.max", "max"}, {"cpu.weight", "10000"},
		{"io.max", "8:0 rbps=max"}, {"cpuset.cpus", "0"}, {"cgroup.max.descendants", "max"}, {"cgroup.freeze", "1"}, {"cgroup.type", "threaded"},
	} {
		t.path = filepath.Join(kit.GuestView, t.path)
		if st, err := os.Lstat(t.path); err == nil && st.Mode().Perm()&0o444 != 0 {
			out = append(out, t)
		}
	}
	return out
}

// guestDirs are the roots of the guest's trees, one of which is enough for tricks with names.
func guestDirs() (roots []string) {
	for _, name := range []string{"memory", "pids", "cpu", "cpuset", "freezer", "devices", "unified"} {
		if kit.Exists(filepath.Join(kit.GuestView, name, kit.Procs)) {
			roots = append(roots, filepath.Join(kit.GuestView, name))
		}
	}
	if len(roots) == 0 {
		roots = []string{kit.GuestView}
	}
	return roots
}

func guestAttempts(userns bool, stranger string) []attempt {
	var list []attempt
	for _, t := range guestTargets() {
		list = append(list, writeAttempts(t)...)
	}
	for _, dir := range guestDirs() {
		list = append(list, writeOnlyAttempts(dir)...)
		list = append(list, belowAttempts(dir, userns)...)
		list = append(list, memberAttempts(dir, stranger)...)
	}
	dir := guestDirs()[0]
	list = append(list, nameAttempts(dir)...)
	list = append(list, bombAttempts(dir)...)
	return append(list, hiddenAttempts()...)
}

// writeOnlyAttempts are about files of the boundary that can only be written.
func writeOnlyAttempts(dir string) (list []attempt) {
	for _, name := range []string{"cgroup.event_control", "memory.force_empty", "devices.allow", "cgroup.kill", "notify_on_release", "cgroup.clone_children"} {
		path := filepath.Join(dir, name)
		if !kit.Exists(path) {
			continue
		}
		list = append(list, attempt{path, "EPERM", func() error { return kit.WithFile(path, unix.O_WRONLY, kit.WriteFD("1")) }},
			attempt{path + " O_RDWR|O_TRUNC", "EPERM", func() error { return kit.WithFile(path, unix.O_RDWR|unix.O_TRUNC, kit.WriteFD("1")) }})
	}
	return list
}

// belowAttempts are about files that stay the host's below the boundary too.
func belowAttempts(dir string, userns bool) []attempt {
	child := filepath.Join(dir, "evil")
	list := []attempt{{dir + ": mkdir evil", "", func() error { return os.Mkdir(child, 0o755) }}}
	for name, value := range map[string]string{
		"cpuset.cpus.partition": "root", "cpuset.cpus.exclusive": "0", "cpuset.cpu_exclusive": "1", "cpuset.mem_exclusive": "1",
		"cpuset.sched_load_balance": "0", "cpuset.sched_relax_domain_level": "1", "cgroup.event_control": "1 2", "io.latency": "8:0 target=1",
		"net_cls.classid": "1", "memory.use_hierarchy": "0",
	} {
		path := filepath.Join(child, name)
		want := "EPERM|ENOENT"
		if os.Getenv(ioAsBlkio) != "" {
			// What stands for the file cannot have the value.
			want += "|EINVAL|EOPNOTSUPP"
		}
		list = append(list, attempt{path, want, func() error { return kit.WithFile(path, unix.O_WRONLY, kit.WriteFD(value)) }})
	}
	for _, name := range []string{"release_agent", "cgroup.sane_behavior", "net_prio.ifpriomap", "cpu.rt_runtime_us", "memory.shown_ram_in_bytes"} {
		path := filepath.Join(child, name)
		list = append(list, attempt{path, "ENOENT", func() error { return kit.WithFile(path, unix.O_RDONLY, func(int) error { return nil }) }})
	}
	if kit.Exists(filepath.Join(dir, "devices.allow")) && userns {
		list = append(list, attempt{"devices.allow below, without CAP_SYS_ADMIN over the host", "EPERM", func() error {
			return kit.WithFile(filepath.Join(child, "devices.allow"), unix.O_WRONLY, kit.WriteFD("a *:* rwm"))
		}})
	}
	list = append(list,
		attempt{child + ": promote-to-rt", "EPERM|ENOENT", func() error {
			return kit.WithFile(filepath.Join(child, "io.prio.class"), unix.O_WRONLY, kit.WriteFD("promote-to-rt"))
		}},
		attempt{child + ": an unprivileged trigger's window", "EINVAL|ENOENT|EOPNOTSUPP", func() error {
			return kit.WithFile(filepath.Join(child, "cpu.pressure"), unix.O_RDWR, kit.WriteFD("some 1000 500000"))
		}},
		attempt{child + ": a write of 1 MiB", "E2BIG|ENOENT", func() error {
			return kit.WithFile(filepath.Join(child, kit.Procs), unix.O_WRONLY, kit.WriteFD(strings.Repeat("1", 1<<20)))
		}},
		attempt{child + ": what was opened before it was removed", "ENODEV", func() error {
			if err := os.Mkdir(child+"2", 0o755); err != nil {
				return err
			}
			return kit.WithFile(filepath.Join(child+"2", kit.Procs), unix.O_WRONLY, func(fd int) error {
				if err := os.Remove(child + "2"); err != nil {
					return err
				}
				_, err := unix.Write(fd, []byte("0"))
				return err
			})
		}},
		attempt{dir + ": rmdir evil", "", func() error { return unix.Rmdir(child) }})
	return list
}

// memberAttempts are about tasks that are not the guest's. stranger is the host's number of a process outside.
func memberAttempts(dir, stranger string) (list []attempt) {
	for _, file := range []string{kit.Procs, "tasks", "cgroup.threads"} {
		path := filepath.Join(dir, file)
		if !kit.Exists(path) {
			continue
		}
		for _, pid := range []string{stranger, "4194303", "-1", "0x7fffffff", "1 1", "self"} {
			list = append(list, attempt{path + " " + pid, "ESRCH|EINVAL|ENOENT", func() error {
				return kit.WithFile(path, unix.O_WRONLY, kit.WriteFD(pid))
			}})
		}
	}
	return list
}

// bombAttempts make too much of something, and then take it away.
func bombAttempts(dir string) []attempt {
	clean := func(paths []string) {
		for i := len(paths) - 1; i >= 0; i-- {
			unix.Rmdir(paths[i])
		}
	}
	return []attempt{
		{"a bomb of cgroups", "EAGAIN", func() (err error) {
			var made []string
			defer func() { clean(made) }()
			for i := 0; i < 1000 && err == nil; i++ {
				path := filepath.Join(dir, fmt.Sprintf("bomb%d", i))
				if err = os.Mkdir(path, 0o755); err == nil {
					made = append(made, path)
				}
			}
			return err
		}},
		{"a bomb of depth", "EAGAIN", func() (err error) {
			var made []string
			defer func() { clean(made) }()
			for path := filepath.Join(dir, "d"); len(made) < 100 && err == nil; path = filepath.Join(path, "d") {
				if err = os.Mkdir(path, 0o755); err == nil {
					made = append(made, path)
				}
			}
			return err
		}},
		{"a bomb of names", "ENOENT", func() (err error) {
			for i := range 3000 {
				_, err = os.Lstat(filepath.Join(dir, strings.Repeat("n", 200)+fmt.Sprint(i)))
			}
			return err
		}},
		{"a bomb of attributes", "ENOSPC", func() (err error) {
			path := filepath.Join(dir, "attrs")
			if err := os.Mkdir(path, 0o755); err != nil {
				return err
			}
			defer unix.Rmdir(path)
			for i := 0; i < 1000 && err == nil; i++ {
				err = unix.Setxattr(path, fmt.Sprintf("user.a%d", i), make([]byte, 1000), 0)
			}
			return err
		}},
		{"thousands of openers at once", "", func() error {
			var wg sync.WaitGroup
			var mu sync.Mutex
			var first error
			for range 200 {
				wg.Add(1)
				go func() {
					defer wg.Done()
					for range 20 {
						err := kit.WithFile(filepath.Join(dir, kit.Procs), unix.O_RDONLY, func(fd int) error {
							_, err := unix.Read(fd, make([]byte, 64))
							return err
						})
						mu.Lock()
						first = errors.Join(first, err)
						mu.Unlock()
					}
				}()
			}
			wg.Wait()
			return first
		}},
	}
}

// hiddenAttempts are about what the view does not show.
func hiddenAttempts() []attempt {
	missing := func(path string) attempt {
		return attempt{"hidden " + path, "ENOENT|ENOTDIR", func() error {
			return kit.WithFile(filepath.Join(kit.GuestView, path), unix.O_RDONLY, func(int) error { return nil })
		}}
	}
	list := []attempt{missing("blkio"), missing("blkio/blkio.throttle.read_bps_device")}
	if os.Getenv(ioAsBlkio) != "" {
		list = nil
	}
	return append(list, []attempt{
		missing("net_prio/net_prio.ifpriomap"), missing("perf_event"),
		missing("systemd"), missing("systemd/release_agent"), missing("../cgroup/../cgroup/debug"), missing(".go-fuse-epoll-hack"),
		missing("vcgroupfs"), missing("release_agent"),
		{"create a hidden file", "EACCES|EPERM", func() error {
			return kit.WithFile(filepath.Join(kit.GuestView, "release_agent"), unix.O_CREAT|unix.O_WRONLY, kit.WriteFD("/bin/sh"))
		}},
		{"/proc/cgroups", "EACCES|EPERM|EROFS|ENOENT|EIO", func() error { return kit.WithFile("/proc/cgroups", unix.O_WRONLY, kit.WriteFD("x")) }},
	}...)
}

// mountAttempts go around the view: cgroups, mounted in the guest's own namespaces. Whatever can be mounted, be it real or the guest's own
// view once more, nothing of the boundary can be written.
func mountAttempts() []attempt {
	around := func(name, kind, options string, files ...string) attempt {
		return attempt{"mount " + name, "EACCES|EPERM|EINVAL|ENOENT|EBUSY|EROFS", func() error { return mountAndWrite(kind, options, files) }}
	}
	return []attempt{
		around("cgroup2", "cgroup2", "", "pids.max", "memory.max", "cgroup.procs", "cgroup.subtree_control", "cgroup.max.depth"),
		around("v1 memory", "cgroup", "memory", "memory.limit_in_bytes", "cgroup.procs", "tasks"),
		around("v1 pids", "cgroup", "pids", "pids.max", "tasks"),
		around("v1 devices", "cgroup", "devices", "devices.allow"),
		around("v1 name=systemd", "cgroup", "none,name=systemd", "tasks", "notify_on_release", "release_agent"),
		{"mount cgroup2 with other options", "EACCES|EPERM|EINVAL|ENOENT|EBUSY", func() error { return mountAndWrite("cgroup2", "nsdelegate,favordynmods", []string{"cgroup.procs"}) }},
		{"umount of the view", "EACCES|EPERM|EINVAL|ENOENT|EROFS", func() error {
			if err := unix.Unmount(kit.GuestView, unix.MNT_DETACH); err != nil {
				return err
			}
			var err error
			for _, file := range []string{"pids/pids.max", "memory/memory.limit_in_bytes", "pids.max", "memory.max"} {
				if err = kit.WithFile(filepath.Join(kit.GuestView, file), unix.O_WRONLY, kit.WriteFD("1")); err == nil {
					return nil
				}
			}
			return err
		}},
		{"mknod of a disk", "EPERM", func() error { return unix.Mknod("/tmp/vcgroupfs-test-disk", unix.S_IFBLK|0o600, 8<<8) }},
		{"/proc/sys/kernel/core_pattern", "EACCES|EPERM|EROFS", func() error { return kit.WithFile("/proc/sys/kernel/core_pattern", unix.O_WRONLY, kit.WriteFD("|/x")) }},
	}
}

// aroundAttempts are ways to the host other than the view.
func aroundAttempts(userns bool) (list []attempt) {
	opened := func(path, want string) attempt {
		return attempt{"open " + path, want, func() error { return kit.WithFile(path, unix.O_RDWR, func(int) error { return nil }) }}
	}
	none := "ENOENT"
	if userns {
		none = "ENOENT|EACCES" // some runtimes leave a host's devices there, which are not for who is nobody
	}
	for _, name := range []string{"mem", "kmsg", "vda", "sda", "loop-control", "loop0", "kvm", "vcs"} {
		list = append(list, opened("/dev/"+name, none))
	}
	for _, name := range []string{"/sys/kernel/mm/transparent_hugepage/enabled", "/sys/kernel/profiling", "/proc/sysrq-trigger", "/proc/sys/kernel/panic"} {
		list = append(list, opened(name, "EROFS|EACCES|ENOENT"))
	}
	for _, name := range []string{"/sys/kernel/debug", "/sys/kernel/tracing", "/sys/kernel/security", "/sys/kernel/config", "/sys/fs/bpf", "/sys/fs/fuse/connections"} {
		list = append(list, attempt{"what is in " + name, "", func() error {
			entries, err := os.ReadDir(name)
			if len(entries) > 0 {
				return fmt.Errorf("%d entries", len(entries))
			}
			if errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) {
				return nil
			}
			return err
		}})
	}
	if !userns {
		list = append(list,
			attempt{"setns to a user namespace", "EPERM", func() error {
				return kit.WithFile("/proc/self/ns/user", unix.O_RDONLY, func(fd int) error { return unix.Setns(fd, 0) })
			}},
			attempt{"unshare of a user namespace", "EPERM", func() error { return unix.Unshare(unix.CLONE_NEWUSER) }})
	}
	return list
}

// isView says whether what is mounted at a directory is a view, by the mount table.
func isView(dir string) bool {
	for line := range strings.Lines(kit.ReadFile("/proc/self/mountinfo")) {
		if f := strings.Fields(line); f[4] == dir && strings.Contains(line, " - fuse.cgroup") {
			return true
		}
	}
	return false
}

// mountAndWrite mounts a file system in a mount namespace of its own and writes to its files. nil: one could be written.
func mountAndWrite(kind, options string, files []string) error {
	dir, err := os.MkdirTemp("", "around")
	if err != nil {
		return err
	}
	defer os.Remove(dir)
	if err := unix.Mount("none", dir, kind, 0, options); err != nil {
		return err
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	for _, file := range files {
		if err = kit.WithFile(filepath.Join(dir, file), unix.O_WRONLY, kit.WriteFD("max")); err == nil {
			return nil
		}
	}
	if isView(dir) {
		return err // in which a guest may make cgroups
	}
	if mkErr := os.Mkdir(filepath.Join(dir, "evil"), 0o755); mkErr == nil {
		os.Remove(filepath.Join(dir, "evil"))
		return nil
	}
	return err
}
