package notify

import (
	"encoding/binary"
	"errors"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// notReading are flags of an open that is not answered. O_PATH and O_DIRECTORY give no text to read.
const notReading = unix.O_ACCMODE | unix.O_CREAT | unix.O_TRUNC | unix.O_PATH | unix.O_DIRECTORY

// plainFlags are the flags of openat2 that are answered: unlike open, it refuses those that it does not know.
const plainFlags = unix.O_CLOEXEC | unix.O_NOCTTY | unix.O_NONBLOCK | unix.O_NOFOLLOW

// procNames are the files of a task in /proc that are answered.
var procNames = []string{"cgroup", "mountinfo", "mounts"}

// opening is a call that opens a file for reading.
type opening struct {
	dir     int32 // descriptor
	name    string
	flags   uint64
	resolve uint64 // of openat2
}

// base returns the last name of the path.
func (o *opening) base() string { return o.name[strings.LastIndexByte(o.name, '/')+1:] }

// open answers an open of a task's file in /proc that tells of cgroups: with a text that has the view's hierarchies. It
// passes everything else on, after a look at the path.
func (c *Caller) open(what call) answer {
	v := c.server.Proc
	if v == nil || c.server.listener == nil {
		// Another process sends the answer (Once), and cannot give the descriptor.
		return pass
	}
	if !c.looked.Load() && !c.reads(what) || c.hold() != nil {
		return pass
	}
	o := c.asked
	base := o.base()
	if base == "mountinfo" && c.pollsMounts() {
		return pass
	}
	var f taskFiles
	var err error
	if !c.server.withRoom(c, o.name, func() { f, err = c.taskFiles(o, base) }) || err != nil {
		return pass
	}
	defer f.close()
	text, err := v.procText(c, f, base)
	if err != nil || !c.Waits() {
		return pass
	}
	fd, err := c.server.texts.open(base, text)
	if err != nil {
		c.server.debugf("cannot answer an open of %s by task %d: %v", base, c.Tid, err)
		return pass
	}
	return answer{opened: true, file: fd, cloexec: o.flags&unix.O_CLOEXEC != 0}
}

// reads reads the arguments. False for a call that is not answered.
func (c *Caller) reads(what call) bool {
	o := &c.asked
	at := c.Args[1]
	switch what {
	case callOpen:
		o.dir, at, o.flags = unix.AT_FDCWD, c.Args[0], c.Args[1]
	case callOpenat:
		o.dir, o.flags = int32(c.Args[0]), c.Args[2]
	case callOpenat2:
		o.dir = int32(c.Args[0])
	}
	if uint32(o.flags)&notReading != 0 {
		return false
	}
	var err error
	if o.name, err = c.text(at, maxPath); err != nil || !slices.Contains(procNames, o.base()) {
		return false
	}
	return what != callOpenat2 || c.openHow(o)
}

// openHow reads the structure of openat2. False for an open that is not answered, and for one that the kernel refuses.
func (c *Caller) openHow(o *opening) bool {
	// struct open_how of include/uapi/linux/openat2.h: flags, mode, resolve.
	b := make([]byte, 24)
	if c.Args[3] != uint64(len(b)) || c.readMemory(c.Args[2], b) != nil {
		return false
	}
	o.flags, o.resolve = binary.NativeEndian.Uint64(b), binary.NativeEndian.Uint64(b[16:])
	const beneath = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_XDEV
	if binary.NativeEndian.Uint64(b[8:]) != 0 || o.flags&^plainFlags != 0 ||
		o.resolve&^(beneath|unix.RESOLVE_NO_MAGICLINKS) != 0 {
		return false
	}
	return o.resolve&beneath == 0 || !strings.HasPrefix(o.name, "/")
}

// pollsMounts reports a program of systemd's, which polls mountinfo: a file in memory has no poll.
func (c *Caller) pollsMounts() bool {
	status, err := c.status()
	name := statusField(status, "Name:", 0)
	return err != nil || name == "systemd" || name == "init"
}

// taskFiles are the files of a task in /proc, open for reading. The kernel binds them to the task.
type taskFiles struct {
	cgroup, mountinfo, mounts int // -1 for one that is not needed
}

func (f taskFiles) close() {
	for _, fd := range []int{f.cgroup, f.mountinfo, f.mounts} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// taskFiles opens the files of the task that a caller's path leads to. An error if it leads anywhere else.
func (c *Caller) taskFiles(o opening, base string) (f taskFiles, err error) {
	f = taskFiles{-1, -1, -1}
	dir, own, err := c.taskDir(o)
	if err != nil {
		return f, err
	}
	defer unix.Close(dir)
	open := func(name string) (fd int) {
		fd = -1
		if err == nil {
			fd, err = c.openTaskFile(dir, name, own)
		}
		return fd
	}
	f.cgroup = open("cgroup")
	if base != "cgroup" {
		f.mountinfo = open("mountinfo")
	}
	if base == "mounts" {
		f.mounts = open("mounts")
	}
	if err != nil {
		f.close()
	}
	return f, err
}

// openTaskFile opens a file of a task's directory: of this process's own /proc, or with the caller's rights. A mount
// over the file is an error.
func (c *Caller) openTaskFile(dir int, name string, own bool) (fd int, err error) {
	do := func() error {
		const how = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV
		fd, err = unix.Openat2(dir, name, &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_CLOEXEC, Resolve: how})
		return err
	}
	if own {
		return fd, do()
	}
	r, err := c.rights()
	if err == nil {
		err = r.with(do)
	}
	return fd, err
}

// taskDir opens the directory, in a /proc, of the file that a caller's path names. own: it is this process's /proc, and
// the task is the caller or the leader of its process. Otherwise a file named as one of procNames there is a task's.
func (c *Caller) taskDir(o opening) (dir int, own bool, err error) {
	if dir, err = c.ownDir(o); err == nil || !errors.Is(err, errElsewhere) {
		return dir, true, err
	}
	if o.resolve&^unix.RESOLVE_NO_MAGICLINKS != 0 {
		return -1, false, errElsewhere
	}
	from, above := "root", strings.TrimSuffix(o.name, o.base())
	how := uint64(unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_IN_ROOT)
	if !strings.HasPrefix(o.name, "/") {
		from, above = o.from(), "./"+above
		how = unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_BENEATH
	}
	at, err := c.Open(from, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return -1, false, err
	}
	defer unix.Close(at)
	if dir, err = c.below(at, above, how); err != nil {
		return -1, false, err
	}
	if isProc(dir, false) {
		return dir, false, nil
	}
	unix.Close(dir)
	return -1, false, errElsewhere
}

// from returns the link in the caller's directory in /proc to where a relative path begins.
func (o *opening) from() string {
	if o.dir == unix.AT_FDCWD {
		return "cwd"
	}
	return "fd/" + strconv.Itoa(int(o.dir))
}

// ownDir opens the caller's own directory in this process's /proc, for a path that goes through "self" or "thread-self"
// of it: those links depend on the process that follows them. errElsewhere for any other path.
func (c *Caller) ownDir(o opening) (int, error) {
	dirs := strings.Split(strings.TrimSuffix(o.name, o.base()), "/")
	dirs = slices.DeleteFunc(dirs, func(w string) bool { return w == "" })
	_, tid := c.ids()
	leader := false
	switch n := len(dirs); {
	case n > 0 && dirs[n-1] == "self":
		leader, dirs = true, dirs[:n-1]
	case n > 0 && dirs[n-1] == "thread-self":
		dirs = dirs[:n-1]
	case n > 2 && slices.Equal(dirs[n-3:], []string{"self", "task", tid}):
		dirs = dirs[:n-3]
	case o.base() == "mounts" && o.flags&unix.O_NOFOLLOW == 0:
		// The link /proc/mounts leads to self/mounts.
		leader = true
	default:
		return -1, errElsewhere
	}
	if len(dirs) > 0 && o.resolve&^unix.RESOLVE_NO_MAGICLINKS != 0 {
		return -1, errElsewhere
	}
	from, how := o.from(), uint64(unix.RESOLVE_NO_MAGICLINKS|unix.RESOLVE_BENEATH)
	if strings.HasPrefix(o.name, "/") {
		from, how = "root", unix.RESOLVE_NO_MAGICLINKS|unix.RESOLVE_IN_ROOT
	}
	at, err := c.Open(from, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return -1, err
	}
	defer unix.Close(at)
	proc, err := c.below(at, strings.Join(append([]string{"."}, dirs...), "/"), how)
	if err != nil {
		return -1, err
	}
	defer unix.Close(proc)
	if !isProc(proc, true) || !c.isIn(proc) {
		return -1, errElsewhere
	}
	if c.covered(proc, leader, o.base()) {
		return -1, ErrPassOn
	}
	if !leader {
		return c.Open(".", unix.O_PATH|unix.O_DIRECTORY)
	}
	status, err := c.status()
	if err != nil {
		return -1, err
	}
	dir, err := unix.Openat(procFD(), statusField(status, "Tgid:", 0), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err == nil && !c.Waits() {
		// The number may be another process's.
		unix.Close(dir)
		return -1, unix.ESRCH
	}
	return dir, err
}

// isIn reports that a /proc has the caller under its numbers: it is not one of another pid namespace, where the link
// self leads nowhere or to another number.
func (c *Caller) isIn(proc int) bool {
	tgid, tid := c.ids()
	fd, err := unix.Openat2(proc, tgid+"/task/"+tid+"/stat", &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	})
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	theirs, err := readText(fd)
	if err != nil {
		return false
	}
	own, err := c.read("stat")
	if err != nil {
		return false
	}
	start, err := host.StartIn(own)
	other, otherErr := host.StartIn([]byte(theirs))
	return err == nil && otherErr == nil && start == other
}

// covered reports that something is mounted over a file of the caller's own in a /proc of its pid namespace.
func (c *Caller) covered(proc int, leader bool, base string) bool {
	tgid, tid := c.ids()
	name := tgid + "/" + base
	if !leader {
		name = tgid + "/task/" + tid + "/" + base
	}
	const how = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV
	fd, err := open(proc, name, unix.O_NOFOLLOW, how)
	if err == nil {
		unix.Close(fd)
	}
	return errors.Is(err, unix.EXDEV)
}

// isProc reports a directory, or the top one, of a /proc.
func isProc(dir int, top bool) bool {
	var st unix.Statfs_t
	if fstatfs(dir, &st) != nil || st.Type != unix.PROC_SUPER_MAGIC {
		return false
	}
	// PROC_ROOT_INO of include/linux/proc_ns.h.
	const rootIno = 1
	var of unix.Stat_t
	return !top || unix.Fstat(dir, &of) == nil && of.Ino == rootIno
}

// procText returns the text of a task's file, for a caller. errElsewhere for a task outside of the guest, and for a
// mount table without the view.
func (v *View) procText(c *Caller, f taskFiles, base string) (text string, err error) {
	if !c.server.enter(c.server.asking) {
		return "", ErrPassOn
	}
	defer func() { <-c.server.asking }()
	c.server.watched(c, "", func() {
		var all []position
		table := mountTable{device: v.Device, several: v.Several, parts: v.Parts}
		if all, table.roots, err = v.positions(c, f, base == "cgroup"); err != nil {
			return
		}
		switch base {
		case "cgroup":
			text = cgroupText(all)
		case "mountinfo":
			text, err = c.mountinfo(f, table)
		case "mounts":
			text, err = mounts(f, table)
		}
	})
	return text, err
}

// positions returns a task's positions in the hierarchies of the view, if they are asked for, and the roots of the
// caller's cgroup namespace there.
func (v *View) positions(c *Caller, f taskFiles, asked bool) (all []position, roots []string, err error) {
	text, err := readText(f.cgroup)
	if err != nil {
		return nil, nil, err
	}
	ns, err := c.cgroups()
	if err != nil {
		return nil, nil, err
	}
	for _, p := range v.Parts {
		at, ok := cgroupPath(text, p.Host)
		if !ok || !isBelow(at, p.Boundary) {
			return nil, nil, errElsewhere
		}
		root, err := c.belowIn(ns, p)
		if err == nil {
			root, err = v.within(p, root)
		}
		if err != nil {
			return nil, nil, err
		}
		roots = append(roots, root)
		if !asked {
			continue
		}
		if at, err = v.within(p, p.visible(strings.TrimPrefix(at, p.Boundary))); err != nil {
			return nil, nil, err
		}
		all = append(all, position{p.Hierarchy, relative(at, root)})
	}
	return all, roots, nil
}

// mountinfo returns a task's mountinfo. The kernel writes the root of a mount of its own cgroups from the root of the
// cgroup namespace of the thread that reads the file (cgroup_show_path).
func (c *Caller) mountinfo(f taskFiles, table mountTable) (string, error) {
	text, err := readText(f.mountinfo)
	if err == nil && strings.Contains(text, " - cgroup") {
		text, err = c.readInside(f.mountinfo)
	}
	if err != nil {
		return "", err
	}
	text, standing := table.mountinfo(text)
	if len(standing) == 0 {
		return "", errElsewhere
	}
	return text, nil
}

// readInside reads a file from its beginning, on a thread in the caller's cgroup namespace.
func (c *Caller) readInside(fd int) (text string, err error) {
	ns, err := c.Open("ns/cgroup", unix.O_RDONLY)
	if err != nil {
		return "", err
	}
	defer unix.Close(ns)
	err = host.OnThread(func() (err error) {
		if err := unix.Setns(ns, unix.CLONE_NEWCGROUP); err != nil {
			return err
		}
		if _, err := unix.Seek(fd, 0, unix.SEEK_SET); err != nil {
			return err
		}
		text, err = readText(fd)
		return err
	})
	return text, err
}

// mounts returns a task's mounts.
func mounts(f taskFiles, table mountTable) (string, error) {
	info, err := readText(f.mountinfo)
	if err != nil {
		return "", err
	}
	text, err := readText(f.mounts)
	if err != nil {
		return "", err
	}
	shown := table.mounts(text, info)
	if shown == text {
		return "", errElsewhere
	}
	return shown, nil
}

// readText reads a file to its end. errFull for more than a file of texts may have.
func readText(fd int) (string, error) {
	var text strings.Builder
	b := make([]byte, 16<<10)
	for {
		n, err := unix.Read(fd, b)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return "", err
		case n == 0:
			return text.String(), nil
		case text.Len()+n > maxText:
			return "", errFull
		default:
			text.Write(b[:n])
		}
	}
}
