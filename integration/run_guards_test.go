package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// runForms are all forms of "run", with and without what answers calls.
var runForms = [][]string{
	nil, {"--no-notify"}, {"--userns"}, {"--userns", "--no-notify"}, {"--privileged"}, {"--privileged", "--no-notify"},
	{"--userns", "--privileged"}, {"--userns", "--privileged", "--no-notify"},
}

// plainForm says whether a guest's root is the host's, without all capabilities.
func plainForm(form []string) bool { return len(form) == 0 || form[0] == "--no-notify" }

// testKey is the key of shared memory, and the name of a message queue and of a secret.
const testKey = 0x76636766

// playGuards prints what came of what the caller of "run" shares with nobody: its terminal, its keys, its System V IPC.
func playGuards(what string) {
	say := func(name string, errno unix.Errno) {
		text := "ok"
		if errno != 0 {
			text = unix.ErrnoName(errno)
		}
		fmt.Println(name + "=" + text)
	}
	switch what {
	case "terminal":
		letter := []byte("x")
		for name, command := range map[string]uintptr{
			"TIOCSTI": unix.TIOCSTI, "TIOCSTI with high bits": unix.TIOCSTI | 7<<32, "TIOCLINUX": unix.TIOCLINUX, "TIOCLINUX with high bits": unix.TIOCLINUX | 1<<63,
			"TIOCOUTQ": unix.TIOCOUTQ,
		} {
			var n [4]byte
			at := &n[0]
			if command != unix.TIOCOUTQ {
				at = &letter[0]
			}
			_, _, errno := unix.Syscall(unix.SYS_IOCTL, 0, command, uintptr(unsafe.Pointer(at)))
			say(name, errno)
		}
	case "keys":
		_, err := unix.KeyctlSearch(unix.KEY_SPEC_SESSION_KEYRING, "user", strconv.Itoa(testKey), 0)
		errno, _ := err.(unix.Errno)
		say("the session's keyring", errno)
		_, err = unix.KeyctlGetKeyringID(unix.KEY_SPEC_USER_KEYRING, true)
		errno, _ = err.(unix.Errno)
		say("the user's keyring", errno)
	case "ipc":
		_, _, errno := unix.Syscall(unix.SYS_SHMGET, testKey, 0, 0)
		say("shared memory", errno)
		say("a message queue", openQueue(0))
		say("setns", joinNothing())
	}
}

// openQueue opens the test's message queue.
func openQueue(flags int) unix.Errno {
	name, _ := unix.BytePtrFromString(strconv.Itoa(testKey))
	fd, _, errno := unix.Syscall6(unix.SYS_MQ_OPEN, uintptr(unsafe.Pointer(name)), uintptr(unix.O_RDWR|flags), 0o600, 0, 0, 0)
	if errno == 0 {
		unix.Close(int(fd))
	}
	return errno
}

// joinNothing is setns with a descriptor that is none.
func joinNothing() unix.Errno {
	errno, _ := unix.Setns(-1, 0).(unix.Errno)
	return errno
}

// guarded runs the test binary in the role, in a form of "run" or "natively", and gives what it printed by name. With a terminal that is
// its controlling one, and its input.
func guarded(t *testing.T, form []string, c *kit.Terminal, what string, command ...string) map[string]string {
	t.Helper()
	args := command
	if len(form) != 1 || form[0] != "natively" {
		args = append(append([]string{kit.Program(t), "run", "--controllers", "pids"}, form...), "--")
		args = append(args, command...)
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), kit.RoleVariable+"=guards "+what)
	cmd.Stderr = os.Stderr
	if c != nil {
		cmd.Stdin, cmd.SysProcAttr = c.Slave, &syscall.SysProcAttr{Setsid: true, Setctty: true}
	}
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for line := range strings.Lines(string(out)) {
		name, said, _ := strings.Cut(strings.TrimSpace(line), "=")
		got[name] = said
	}
	return got
}

// wantSaid compares what was printed by name.
func wantSaid(t *testing.T, got, want map[string]string) {
	t.Helper()
	for name, w := range want {
		if !kit.OneOf(got[name], w) {
			t.Errorf("%s: got %q, want %q", name, got[name], w)
		}
	}
}

// TestRunTerminal: no form of "run" lets its command type into the caller's terminal, not by a command with more bits, nor by calls of 32 bits.
func TestRunTerminal(t *testing.T) {
	kit.NeedHierarchy(t, kit.OpenHost(t), "pids")
	binary := kit.PublicProgram(t)
	caller := filepath.Join(filepath.Dir(binary), "caller32")
	kit.CopyProgram(t, filepath.Join(filepath.Dir(kit.AbsProgram(t)), "caller32"), caller)
	if legacy := kit.ReadFile("/proc/sys/dev/tty/legacy_tiocsti"); !strings.HasPrefix(legacy, "0") { // before Linux 6.2 there is no such file
		wantSaid(t, guarded(t, []string{"natively"}, kit.OpenTerminal(t), "terminal", binary),
			map[string]string{"TIOCSTI": "ok", "TIOCSTI with high bits": "ok", "TIOCLINUX": "ENOTTY"})
		t.Run("natively, 32 bits", func(t *testing.T) {
			kit.Need32(t, caller)
			wantSaid(t, guarded(t, []string{"natively"}, kit.OpenTerminal(t), "", caller, "--input"), map[string]string{"TIOCSTI": "ok"})
		})
	}
	for _, form := range runForms {
		t.Run(kit.FormName(form), func(t *testing.T) {
			wantSaid(t, guarded(t, form, kit.OpenTerminal(t), "terminal", binary), map[string]string{
				"TIOCSTI": "EPERM", "TIOCSTI with high bits": "EPERM", "TIOCLINUX": "EPERM", "TIOCLINUX with high bits": "EPERM", "TIOCOUTQ": "ok",
			})
			if plainForm(form) { // which knows no calls of 32 bits
				return
			}
			kit.Need32(t, caller)
			wantSaid(t, guarded(t, form, kit.OpenTerminal(t), "", caller, "--input"), map[string]string{"TIOCSTI": "EPERM", "TIOCLINUX": "EPERM"})
		})
	}
}

// TestRunKeys: no form of "run" leaves its command the keys of the caller's session.
func TestRunKeys(t *testing.T) {
	kit.NeedHierarchy(t, kit.OpenHost(t), "pids")
	runtime.LockOSThread() // never unlocked: the keyring is this thread's, and its children's
	if _, _, errno := unix.Syscall(unix.SYS_KEYCTL, unix.KEYCTL_JOIN_SESSION_KEYRING, 0, 0); errno == unix.ENOSYS {
		t.Skip("machine: a kernel without keys (any version, 6.1 too)")
	} else if errno != 0 {
		t.Fatal(errno)
	}
	if _, err := unix.AddKey("user", strconv.Itoa(testKey), []byte("secret"), unix.KEY_SPEC_SESSION_KEYRING); err != nil {
		t.Fatal(err)
	}
	binary := kit.PublicProgram(t)
	wantSaid(t, guarded(t, []string{"natively"}, nil, "keys", binary), map[string]string{"the session's keyring": "ok", "the user's keyring": "ok"})
	for _, form := range runForms {
		want := map[string]string{"the session's keyring": "ENOKEY", "the user's keyring": "ok"}
		if plainForm(form) {
			want = map[string]string{"the session's keyring": "EPERM", "the user's keyring": "EPERM"}
		}
		t.Run(kit.FormName(form), func(t *testing.T) { wantSaid(t, guarded(t, form, nil, "keys", binary), want) })
	}
}

// TestRunIPC: no form of "run" shares System V IPC or message queues with its caller.
func TestRunIPC(t *testing.T) {
	kit.NeedHierarchy(t, kit.OpenHost(t), "pids")
	id, err := unix.SysvShmGet(testKey, 4096, unix.IPC_CREAT|0o666)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.SysvShmCtl(id, unix.IPC_RMID, nil) })
	queued := openQueue(unix.O_CREAT)
	if queued == 0 {
		t.Cleanup(func() {
			name, _ := unix.BytePtrFromString(strconv.Itoa(testKey))
			unix.Syscall(unix.SYS_MQ_UNLINK, uintptr(unsafe.Pointer(name)), 0, 0)
		})
	} else if queued != unix.ENOSYS {
		t.Fatal(queued)
	}
	binary := kit.PublicProgram(t)
	wantSaid(t, guarded(t, []string{"natively"}, nil, "ipc", binary), map[string]string{"shared memory": "ok", "a message queue": "ok|ENOSYS", "setns": "EBADF"})
	for _, form := range runForms {
		want := map[string]string{"shared memory": "ENOENT", "a message queue": "ENOENT|ENOSYS", "setns": "EBADF"}
		if plainForm(form) {
			want["setns"] = "EPERM"
		}
		t.Run(kit.FormName(form), func(t *testing.T) { wantSaid(t, guarded(t, form, nil, "ipc", binary), want) })
	}
}
