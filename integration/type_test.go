package integration

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// TestType: each node of a view says the type that it has natively, and everything else of the answer is as without.
func TestType(t *testing.T) {
	kit.NeedType(t)
	h := kit.OpenHost(t)
	for _, hier := range h.Hierarchies() {
		names := kit.ShownControllers(hier)
		if len(names) == 0 {
			continue
		}
		t.Run(hier.String(), func(t *testing.T) {
			path := kit.NewBoundary(t, "type", hier)
			args := []string{"--boundary", path, "--controllers", strings.Join(names, ","), "--layout", kit.LayoutOf(hier)}
			v, off := kit.MountView(t, args...), kit.MountView(t, append(args, "--no-bpf")...)
			if hier.Version == hierarchy.V1 {
				kit.WantType(t, v.Dir, unix.TMPFS_MAGIC)
			}
			top := v.Top(hier)
			if err := unix.Mkdir(filepath.Join(top, "child"), 0o755); err != nil {
				t.Fatal(err)
			}
			for _, name := range []string{".", "cgroup.procs", "child", "child/cgroup.procs", "child/" + readableFile(t, top)} {
				kit.WantType(t, filepath.Join(top, name), kit.NativeType(hier))
				kit.WantType(t, filepath.Join(off.Top(hier), name), unix.FUSE_SUPER_MAGIC)
			}
			var with, without, native unix.Statfs_t
			err1, err2, err3 := unix.Statfs(top, &with), unix.Statfs(off.Top(hier), &without), unix.Statfs(kit.HostDir(hier, path), &native)
			with.Fsid, without.Fsid, without.Type = unix.Fsid{}, unix.Fsid{}, with.Type
			if err1 != nil || err2 != nil || err3 != nil || with != without || with.Type != native.Type {
				t.Errorf("%+v with, %+v without, %+v natively: %v, %v, %v", with, without, native, err1, err2, err3)
			}
			var st unix.Statfs_t
			if err := unix.Statfs(filepath.Join(top, "none"), &st); err != unix.ENOENT {
				t.Errorf("of what is not there: %v", err)
			}
			if _, _, errno := unix.Syscall(unix.SYS_STATFS, uintptr(0), 0, 0); errno != unix.EFAULT {
				t.Errorf("without a path: %v", errno)
			}
		})
	}
}

// readableFile is a control file of a child cgroup that has no dot-dot in its way.
func readableFile(t testing.TB, top string) string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(top, "child"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "cgroup.") && e.Type().IsRegular() {
			return e.Name()
		}
	}
	return "cgroup.procs"
}

// TestTypeForeign: a file system that is no view keeps its type, whatever it answers, also under a view's device
// number, and after calls that ask a view for its type and give it to nobody.
func TestTypeForeign(t *testing.T) {
	kit.NeedType(t)
	h := kit.OpenHost(t)
	hier := kit.NeedHierarchy(t, h, "pids")
	path := kit.NewBoundary(t, "foreign", hier)
	args := []string{"--boundary", path, "--controllers", "pids"}
	off := kit.MountView(t, append(args, "--no-bpf")...) // says all that a view says, but is not known
	var device uint64
	t.Run("view", func(t *testing.T) {
		v := kit.MountView(t, args...)
		own := mountOwnFUSE(t)
		kit.WantType(t, v.Top(hier), kit.NativeType(hier))
		for _, dir := range []string{off.Top(hier), own} {
			var st unix.Statfs_t
			if err := unix.Statfs(dir, &st); err != nil || st.Type != unix.FUSE_SUPER_MAGIC {
				t.Errorf("%s: %#x, %v", dir, st.Type, err)
			}
		}
		var st unix.Stat_t
		if err := unix.Stat(v.Dir, &st); err != nil {
			t.Fatal(err)
		}
		device = st.Dev
		afterUstat(t, device, off.Top(hier))
		afterOverlay(t, v.Top(hier), off.Top(hier))
	})
	// The number is the next one's now.
	for range 20 {
		again := mountOwnFUSE(t)
		var st unix.Stat_t
		var fs unix.Statfs_t
		err1, err2 := unix.Stat(again, &st), unix.Statfs(again, &fs)
		if err1 != nil || err2 != nil || fs.Type != unix.FUSE_SUPER_MAGIC {
			t.Fatalf("%#x, %v, %v", fs.Type, err1, err2)
		}
		if st.Dev == device {
			t.Logf("device %#x was a view's and is another file system's now", device)
			return
		}
	}
	t.Error("the device number was not used again")
}

// afterUstat has ustat(2), which answers without a type, ask the view, and then statfs the other.
func afterUstat(t *testing.T, device uint64, other string) {
	t.Helper()
	if runtime.GOARCH != "amd64" {
		return // later architectures have no such call
	}
	const sysUstat = 136
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	major, minor := unix.Major(device), unix.Minor(device)
	encoded := uintptr(major<<8 | minor&0xff | minor&^0xff<<12) // new_encode_dev of include/linux/kdev_t.h
	var u [32]byte
	var st unix.Statfs_t
	for range 10 {
		_, _, errno := unix.RawSyscall(sysUstat, encoded, uintptr(unsafe.Pointer(&u)), 0)
		if errno != 0 {
			t.Errorf("ustat: %v", errno)
		}
		if err := unix.Statfs(other, &st); err != nil || st.Type != unix.FUSE_SUPER_MAGIC {
			t.Errorf("after ustat of a view another file system says %#x, %v", st.Type, err)
		}
	}
}

// afterOverlay has an overlay ask the view, which says its own type, and then statfs the other.
func afterOverlay(t *testing.T, view, other string) {
	t.Helper()
	dir, second := kit.PublicDir(t), kit.PublicDir(t)
	if err := unix.Mount("overlay", dir, "overlay", 0, "lowerdir="+view+":"+second); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	var st unix.Statfs_t
	for range 10 {
		if err := unix.Statfs(dir, &st); err != nil || st.Type != unix.OVERLAYFS_SUPER_MAGIC {
			t.Errorf("an overlay on a view says %#x, %v", st.Type, err)
		}
		if err := unix.Statfs(other, &st); err != nil || st.Type != unix.FUSE_SUPER_MAGIC {
			t.Errorf("after statfs of an overlay on a view another file system says %#x, %v", st.Type, err)
		}
	}
}

// mountOwnFUSE mounts a FUSE file system of the test's own, as any user may by fusermount.
func mountOwnFUSE(t *testing.T) string {
	t.Helper()
	dir := kit.PublicDir(t)
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err == nil {
		options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=1000,group_id=1000,allow_other", fd)
		err = unix.Mount("own", dir, "fuse", 0, options)
	}
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		serveOwnFUSE(fd)
	}()
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
		<-served
	})
	return dir
}

// serveOwnFUSE answers what statfs and stat of the root ask for (include/uapi/linux/fuse.h), until it is unmounted.
func serveOwnFUSE(fd int) {
	defer unix.Close(fd)
	const sizeInit, sizeStatfs, sizeAttr = 64, 80, 104
	buf := make([]byte, 1<<17)
	for {
		n, err := unix.Read(fd, buf)
		if err == unix.EINTR || err == unix.ENOENT {
			continue
		}
		if err != nil || n < 40 {
			return
		}
		order := binary.NativeEndian
		out := make([]byte, 16)
		switch order.Uint32(buf[4:]) {
		case 2, 42: // FORGET and BATCH_FORGET have no answer
			continue
		case 26: // INIT
			out = append(out, make([]byte, sizeInit)...)
			order.PutUint32(out[16:], 7)
			order.PutUint32(out[20:], 31)
			order.PutUint32(out[36:], 4096) // max_write
		case 17: // STATFS
			out = append(out, make([]byte, sizeStatfs)...)
		case 3: // GETATTR
			out = append(out, make([]byte, sizeAttr)...)
			order.PutUint64(out[16+16:], 1)
			order.PutUint32(out[16+16+60:], unix.S_IFDIR|0o755)
			order.PutUint32(out[16+16+64:], 2)
		default:
			order.PutUint32(out[4:], uint32(1<<32-int64(unix.ENOSYS)))
		}
		order.PutUint32(out, uint32(len(out)))
		copy(out[8:16], buf[8:16])
		if _, err := unix.Write(fd, out); err != nil && err != unix.ENOENT {
			return
		}
	}
}

// TestTypeRun: "run" has programs of its own for as long as it lasts.
func TestTypeRun(t *testing.T) {
	kit.NeedType(t)
	hier := kit.NeedHierarchy(t, kit.OpenHost(t), "pids")
	want, before := fmt.Sprintf("%x", kit.NativeType(hier)), kit.TypePrograms()
	ask := "stat -f -c %t " + kit.TopOf("/sys/fs/cgroup", hier)
	for _, form := range [][]string{{}, {"--userns"}, {"--privileged"}} {
		args := slices.Concat([]string{"run", "--controllers", "pids"}, form, []string{"--", "sh", "-c", ask})
		out, err := exec.Command(kit.Program(t), args...).CombinedOutput()
		if err != nil || strings.TrimSpace(string(out)) != want {
			t.Errorf("%v: %v, %q; want %s", form, err, out, want)
		}
	}
	out, err := exec.Command(kit.Program(t), "run", "--no-bpf", "--no-notify", "--controllers", "pids", "--", "sh", "-c", ask).CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != "65735546" {
		t.Errorf("switched off: %v, %q", err, out)
	}
	kit.WantNoPrograms(t, before)
}
