package host

import (
	"encoding/binary"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// Hierarchy is one hierarchy of the host, addressed by paths from its root: "/machines/web". It serves to set up and
// remove a guest's cgroups. It may be used by many goroutines.
type Hierarchy struct {
	hierarchy.Hierarchy
	host   *Host
	root   int    // immutable; O_PATH
	handle int    // immutable; the same, open for reading: open_by_handle_at takes no O_PATH
	device uint64 // immutable; st_dev of every directory of the hierarchy
	id     uint64 // immutable; the root's kernfs id

	parents parents
}

// openHierarchy opens a hierarchy's root and checks that a cgroup file system, or a view of one, is mounted there.
func openHierarchy(h *Host, x hierarchy.Hierarchy) (*Hierarchy, error) {
	root, err := unix.Open(x.Mountpoint, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	hier := &Hierarchy{Hierarchy: x, host: h, root: root, handle: -1}
	var fs unix.Statfs_t
	var st unix.Stat_t
	if err = unix.Fstatfs(root, &fs); err == nil {
		err = unix.Fstat(root, &st)
	}
	want := int64(unix.CGROUP_SUPER_MAGIC)
	if x.Version == hierarchy.V2 {
		want = unix.CGROUP2_SUPER_MAGIC
	}
	// Package fstype may make statfs of a view return the type of the file system that it stands for.
	if err == nil && fs.Type != want && !(x.View && fs.Type == unix.FUSE_SUPER_MAGIC) {
		err = fmt.Errorf("not cgroup v%d is mounted there but a file system of type %#x", int(x.Version), fs.Type)
	}
	if err == nil && x.View {
		err = hier.checkView()
	}
	if err == nil {
		hier.device, hier.id = st.Dev, st.Ino
		hier.handle, err = openBelow(root, "", unix.O_RDONLY|unix.O_DIRECTORY)
	}
	if err != nil {
		hier.close()
		return nil, err
	}
	return hier, nil
}

// ID returns the root's kernfs id. In a view it is the boundary's, so two guests' ids differ.
func (hier *Hierarchy) ID() uint64 { return hier.id }

func (hier *Hierarchy) close() {
	for _, fd := range []int{hier.root, hier.handle} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	hier.root, hier.handle = -1, -1
}

// clean turns a path from the root into one for openBelow. EINVAL for a relative path or one that ascends.
func clean(dir string) (string, error) {
	if !strings.HasPrefix(dir, "/") || path.Clean(dir) != dir && path.Clean(dir)+"/" != dir {
		return "", pathError("open", dir, unix.EINVAL)
	}
	return strings.Trim(dir, "/"), nil
}

// open opens a directory by its path from the root.
func (hier *Hierarchy) open(dir string) (int, error) {
	rel, err := clean(dir)
	if err != nil {
		return -1, err
	}
	fd, err := openBelow(hier.root, rel, unix.O_PATH|unix.O_DIRECTORY)
	return fd, pathError("open", dir, err)
}

// Exists reports a cgroup at a path.
func (hier *Hierarchy) Exists(dir string) bool {
	fd, err := hier.open(dir)
	if err == nil {
		unix.Close(fd)
	}
	return err == nil
}

// Create makes a cgroup and its missing ancestors. A new v1 cpuset gets its parent's processors and nodes, without
// which it can hold no task. A new v1 cgroup does not notify on release, whatever its parent's setting, because the
// agent runs on the host, and its memory limit holds for the cgroups below it. Not an error if the cgroup exists.
func (hier *Hierarchy) Create(dir string, mode uint32) error {
	rel, err := clean(dir)
	if err != nil {
		return err
	}
	at, err := unix.Dup(hier.root)
	if err != nil {
		return err
	}
	defer func() { unix.Close(at) }()
	for name := range strings.SplitSeq(rel, "/") {
		err := unix.Mkdirat(at, name, mode)
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return pathError("mkdir", dir, err)
		}
		child, openErr := openBelow(at, name, unix.O_PATH|unix.O_DIRECTORY)
		if openErr != nil {
			return pathError("open", dir, openErr)
		}
		if err == nil {
			err = hier.prepare(at, child)
		} else {
			err = nil
		}
		unix.Close(at)
		at = child
		if err != nil {
			return pathError("prepare", dir, err)
		}
	}
	return nil
}

// prepare makes a new v1 cgroup usable and harmless.
func (hier *Hierarchy) prepare(parent, child int) error {
	if hier.Version != hierarchy.V1 {
		return nil
	}
	if err := silence(child); err != nil {
		return err
	}
	if err := nestMemory(child); err != nil {
		return err
	}
	if !hier.Holds("cpuset") {
		return nil
	}
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		value, err := readBelow(parent, file)
		if err == nil {
			err = writeBelow(child, file, value)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// useHierarchy says whether a v1 cgroup's memory limit holds for the cgroups below it. Always 1 since Linux 5.11
// (mm/memcontrol.c, bef8620cd8e0); before, 0 unless somebody has set it: systemd does at the root.
const useHierarchy = "memory.use_hierarchy"

// MemoryNests reports that a memory limit of a cgroup of this hierarchy holds for the cgroups below it, if somebody has
// not switched that off there.
func (hier *Hierarchy) MemoryNests() (bool, error) { return memoryNests(hier.root) }

// MemoryNests reports that the boundary's memory limit holds for the cgroups below it. True in a hierarchy without
// memory.
func (b *Boundary) MemoryNests() (bool, error) { return memoryNests(b.root.fd) }

func memoryNests(dir int) (bool, error) {
	value, err := readBelow(dir, useHierarchy)
	if errors.Is(err, unix.ENOENT) {
		return true, nil
	}
	return strings.TrimSpace(string(value)) != "0", err
}

// nestMemory makes the memory limit of a new v1 cgroup hold for the cgroups below it.
func nestMemory(dir int) error {
	nests, err := memoryNests(dir)
	if err == nil && !nests {
		err = writeBelow(dir, useHierarchy, []byte("1"))
	}
	return err
}

// silence keeps a v1 cgroup from making the host run its release agent.
func silence(dir int) error {
	fd, err := openBelow(dir, "notify_on_release", unix.O_RDONLY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var value [1]byte
	// The file has one digit.
	if n, err := unix.Pread(fd, value[:], 0); err != nil || n == 1 && value[0] == '0' {
		return err
	}
	return writeBelow(dir, "notify_on_release", []byte("0"))
}

// removeWait bounds RemoveAll's wait for exiting tasks.
const removeWait = 5 * time.Second

// RemoveAll removes a cgroup and all below it. It waits for exiting tasks, 5 s at most; EBUSY while other tasks are
// there. Not an error if there is no such cgroup.
func (hier *Hierarchy) RemoveAll(dir string) error {
	parent, name, err := hier.openParent(dir)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return pathError("remove", dir, err)
	}
	defer unix.Close(parent)
	for deadline := time.Now().Add(removeWait); ; time.Sleep(5 * time.Millisecond) {
		err = removeRecursive(parent, name)
		if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			return pathError("remove", dir, err)
		}
	}
}

func removeRecursive(parent int, name string) error {
	err := unix.Unlinkat(parent, name, unix.AT_REMOVEDIR)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if !errors.Is(err, unix.EBUSY) {
		return err
	}
	dir, err := openBelow(parent, name, unix.O_PATH|unix.O_DIRECTORY)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	entries, err := listFD(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir {
			if err := removeRecursive(dir, e.Name); err != nil {
				return err
			}
		}
	}
	if err := unix.Unlinkat(parent, name, unix.AT_REMOVEDIR); !errors.Is(err, unix.ENOENT) {
		return err
	}
	return nil
}

// RemoveIfEmpty removes a cgroup that has no task and no child; EBUSY otherwise.
func (hier *Hierarchy) RemoveIfEmpty(dir string) error {
	parent, name, err := hier.openParent(dir)
	if err != nil {
		return pathError("remove", dir, err)
	}
	defer unix.Close(parent)
	return pathError("remove", dir, unix.Unlinkat(parent, name, unix.AT_REMOVEDIR))
}

// openParent opens the directory above a cgroup, and returns the cgroup's name in it. EINVAL for the root.
func (hier *Hierarchy) openParent(dir string) (parent int, name string, err error) {
	rel, err := clean(dir)
	if err != nil || rel == "" {
		return -1, "", unix.EINVAL
	}
	parent, err = openBelow(hier.root, strings.Trim(path.Dir("/"+rel), "/"), unix.O_PATH|unix.O_DIRECTORY)
	return parent, path.Base(rel), err
}

// ReadFile reads a control file of the cgroup at a path.
func (hier *Hierarchy) ReadFile(dir, file string) (string, error) {
	fd, err := hier.open(dir)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	raw, err := readBelow(fd, file)
	return string(raw), pathError("read", path.Join(dir, file), err)
}

// WriteFile writes one command to a control file of the cgroup at a path.
func (hier *Hierarchy) WriteFile(dir, file, value string) error {
	fd, err := hier.open(dir)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return pathError("write", path.Join(dir, file), writeBelow(fd, file, []byte(value)))
}

// Attach moves a process to the cgroup at a path. Only the kernel checks the move.
func (hier *Hierarchy) Attach(dir string, pid int) error {
	return hier.WriteFile(dir, "cgroup.procs", strconv.Itoa(pid))
}

// Enable enables controllers for the cgroup at a path of a v2 hierarchy, in all cgroups above it. ENOENT if the root
// lacks one, EBUSY if a cgroup above it holds processes.
func (hier *Hierarchy) Enable(dir string, controllers ...string) error {
	rel, err := clean(dir)
	if err != nil || rel == "" || len(controllers) == 0 {
		return err
	}
	above := "/"
	for name := range strings.SplitSeq(rel, "/") {
		enabled, err := hier.ReadFile(above, "cgroup.subtree_control")
		if err != nil {
			return err
		}
		for _, c := range controllers {
			if !hasWord(enabled, c) {
				if err := hier.WriteFile(above, "cgroup.subtree_control", "+"+c); err != nil {
					return err
				}
			}
		}
		above = path.Join(above, name)
	}
	return nil
}

func hasWord(text, word string) bool {
	for w := range strings.FieldsSeq(text) {
		if w == word {
			return true
		}
	}
	return false
}

// The kernel's file handles of cgroup directories: FILEID_KERNFS and the 64-bit kernfs id (fs/kernfs/mount.c).
const (
	kernfsHandle     = 0xfe
	kernfsHandleSize = 8
)

// openHandle opens a directory by its kernfs id, anywhere in the hierarchy. ESTALE if there is none.
func (hier *Hierarchy) openHandle(id uint64) (int, error) {
	var raw [kernfsHandleSize]byte
	binary.NativeEndian.PutUint64(raw[:], id)
	handle := unix.NewFileHandle(kernfsHandle, raw[:])
	return unix.OpenByHandleAt(hier.handle, handle, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC)
}

// handlesWork reports that a directory can be opened by its id.
func (hier *Hierarchy) handlesWork() bool {
	fd, err := hier.openHandle(hier.id)
	if err != nil {
		return false
	}
	unix.Close(fd)
	return true
}

// PathOf returns the path of a process's cgroup, from the root. ESRCH if there is no such process, ENOENT if it is
// outside the server's cgroup namespace.
func (hier *Hierarchy) PathOf(pid int) (string, error) {
	m, err := MembershipOf(pid)
	if err != nil {
		return "", err
	}
	return m.Path(hier)
}

// Membership is where a process was at a moment, in all hierarchies: one reading for many questions.
type Membership struct{ text []byte } // of /proc/<pid>/cgroup

// MembershipOf returns where a process is now. ESRCH if there is no such process.
func MembershipOf(pid int) (m Membership, err error) {
	proc, err := openProc(strconv.Itoa(pid))
	if err != nil {
		return m, err
	}
	defer unix.Close(proc)
	m.text, err = readAt(proc, "cgroup")
	return m, err
}

// Path returns the path of the process's cgroup in a hierarchy, from the root. ENOENT if it is outside the server's
// cgroup namespace.
func (m Membership) Path(hier *Hierarchy) (string, error) {
	at, ok := hier.pathIn(m.text)
	if !ok {
		return "", unix.ENOENT
	}
	return at, nil
}

// pathIn returns the path in the text of /proc/<pid>/cgroup, from the root. Not ok outside the server's cgroup
// namespace.
func (hier *Hierarchy) pathIn(raw []byte) (at string, ok bool) {
	at, known := membershipOf(raw, hier.Hierarchy)
	_, below := pathBelow("/", at)
	return at, known && below
}

// PathsOf returns the paths of the cgroups of a task, a process or one thread, in the order of Hierarchies; "" in a
// hierarchy in which it is outside the server's cgroup namespace. ESRCH if there is no such task.
func (h *Host) PathsOf(tid int) ([]string, error) {
	raw, err := readAt(unix.AT_FDCWD, "/proc/"+strconv.Itoa(tid)+"/cgroup")
	if err != nil {
		return nil, err
	}
	paths := make([]string, len(h.hierarchies))
	for i, hier := range h.hierarchies {
		if at, ok := hier.pathIn(raw); ok {
			paths[i] = at
		}
	}
	return paths, nil
}
