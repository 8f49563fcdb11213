package kit

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// PackagedProfile copies a packaged profile, with the socket of a test's daemon.
func PackagedProfile(t *testing.T, d *Daemon, name string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	text := ReadFile("../packaging/seccomp/" + name)
	if !strings.Contains(text, `"/run/vcgroupfs/serve/notify"`) {
		t.Fatalf("the profile %s does not name the daemon's socket", name)
	}
	text = strings.ReplaceAll(text, "/run/vcgroupfs/serve/notify", d.ListenerSocket())
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// PackagedLXC is the packaged configuration with the socket of a test's daemon and the packaged profile.
func PackagedLXC(t *testing.T, d *Daemon) string {
	t.Helper()
	profile, err := filepath.Abs("../packaging/seccomp/lxc.profile")
	if err != nil {
		t.Fatal(err)
	}
	text := ReadFile("../packaging/runtimes/lxc-notify.conf")
	ours := strings.NewReplacer("/usr/share/vcgroupfs/seccomp/lxc.profile", profile, "/run/vcgroupfs/serve/notify",
		d.ListenerSocket())
	return ours.Replace(text)
}

// PackagedDevices puts the packaged devices into a directory, with more options for their hooks, and says of what kind
// they are.
func PackagedDevices(t *testing.T, d *Daemon, dir string, options ...string) (kind string) {
	t.Helper()
	kind = "test-" + strconv.Itoa(os.Getpid()) + ".vcgroupfs.dev/cgroup"
	if err := os.Mkdir(dir, 0o755); err == nil {
		t.Cleanup(func() { os.Remove(dir) })
	}
	file := filepath.Join(dir, "vcgroupfs-test-"+strconv.Itoa(os.Getpid())+".json")
	InstallPackaged(t, d, "../packaging/runtimes/cdi.json", file, kind, options...)
	t.Cleanup(func() { os.Remove(file) })
	return kind
}

// InstallPackaged copies a packaged file, with this test's program and daemon instead of the installed ones.
func InstallPackaged(t *testing.T, d *Daemon, from, to, kind string, options ...string) {
	t.Helper()
	text := ReadFile(from)
	args := `"hook", "oci"`
	for _, o := range append([]string{"--socket", d.Socket}, options...) {
		args += ", " + strconv.Quote(o)
	}
	for _, change := range [][2]string{
		{`"/usr/bin/vcgroupfs"`, strconv.Quote(AbsProgram(t))}, {`"hook", "oci"`, args}, {"vcgroupfs.dev/cgroup", kind},
		{"/run/vcgroupfs/serve/self", d.Self()},
	} {
		if change[1] != "" {
			text = strings.ReplaceAll(text, change[0], change[1])
		}
	}
	if err := os.WriteFile(to, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
