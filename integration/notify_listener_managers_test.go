package integration

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// Containers of podman, Docker and LXC with the packaged profiles.

// ourProfile copies a packaged profile, with the socket of a test's daemon.
func ourProfile(t *testing.T, d *daemon, name string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	text := readFile("../packaging/seccomp/" + name)
	if !strings.Contains(text, `"/run/vcgroupfs/serve/notify"`) {
		t.Fatalf("the profile %s does not name the daemon's socket", name)
	}
	text = strings.ReplaceAll(text, "/run/vcgroupfs/serve/notify", d.listeners())
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// typeScript asks for the types of a view.
func typeScript(want map[string]string) (s scripted) {
	for path, kind := range want {
		for _, op := range []string{"type", "ftype"} {
			s.lines, s.want = append(s.lines, op+` "`+path+`"`), append(s.want, "="+kind)
		}
	}
	s.lines, s.want = append(s.lines, `type "/proc"`), append(s.want, "="+procType)
	return s
}

// fuseTypes are the same places without a listener.
func fuseTypes(want map[string]string) map[string]string {
	all := map[string]string{}
	for path := range want {
		all[path] = fuseType
	}
	return all
}

// TestListenerPodman: a container with the packaged profile, and one with podman's own.
func TestListenerPodman(t *testing.T) {
	program, err := exec.LookPath("podman")
	if err != nil {
		t.Skip("machine: podman is not installed")
	}
	needRuntime(t, "runc")
	for _, layout := range []string{"own", "v2"} {
		t.Run(layout, func(t *testing.T) {
			h := openHost(t)
			tree, args := treeOfLayout(t, h, layout)
			d := startUnaided(t)
			hooks := t.TempDir()
			ours(t, d, "../packaging/runtimes/vcgroupfs.json", filepath.Join(hooks, "vcgroupfs.json"), "", args...)
			rootfs := newRootfs(t, filepath.Join(publicDir(t), "rootfs"))
			for _, with := range []bool{true, false} {
				want, options := viewTypes(tree), []string{"--annotation", "dev.vcgroupfs=true"}
				if with {
					options = append(options, "--security-opt", "seccomp="+ourProfile(t, d, "podman.json"))
				} else {
					want = fuseTypes(want)
				}
				s := typeScript(want)
				s.put(t, rootfs)
				out, err := newPodman(t, h, program).run("script", rootfs, []string{"--hooks-dir", hooks}, options).CombinedOutput()
				if err != nil {
					t.Fatalf("podman: %v: %s", err, out)
				}
				s.check(t, rootfs, out)
			}
			d.stop(t)
		})
	}
}

// TestListenerDocker: the same of Docker, and a container that may mount.
func TestListenerDocker(t *testing.T) {
	h := openHost(t)
	tree := need(t, h, "pids")
	d := startUnaided(t)
	cdi := t.TempDir()
	kind := ourDevices(t, d, cdi)
	k := startDocker(t, h, cdi, false)
	ours := "seccomp=" + ourProfile(t, d, "docker.json")
	for name, options := range map[string][]string{
		"own": nil, "ours": {"--security-opt", ours},
		"ours, may mount": {"--security-opt", ours, "--cap-add", "SYS_ADMIN", "--security-opt", "apparmor=unconfined"},
	} {
		t.Run(name, func(t *testing.T) {
			always := []string{"--device", kind + "=view", "--pids-limit", "64", "--cgroupns", "private"}
			cmd := k.run("commands", append(always, options...)...)
			cmd.Stderr = os.Stderr
			x := startProcess(t, cmd)
			want := viewTypes(tree)
			if options == nil {
				want = fuseTypes(want)
			}
			want["/proc"] = procType
			x.wantTypes(t, want)
			if strings.Contains(name, "may") && tree.Version == hierarchy.V1 {
				got := x.ask(t, "mkdir", "/tmp/m") + x.ask(t, "mount", "/tmp/m", "cgroup", strings.Join(tree.Controllers, ",")) +
					x.ask(t, "type", "/tmp/m") + x.ask(t, "read", "/tmp/m/pids.max")
				if got != "okok"+cgroupType+"64\n" {
					t.Errorf("a mount of its own: %q", got)
				}
			}
			x.in.Close()
			if err := cmd.Wait(); err != nil {
				t.Errorf("the container ended with %v", err)
			}
		})
	}
	d.stop(t)
}

// TestListenerLXC: a container of LXC whose monitor asks the daemon for each call.
func TestListenerLXC(t *testing.T) {
	if _, err := exec.LookPath("lxc-start"); err != nil {
		t.Skip("machine: lxc-start is not installed")
	}
	for name, idmap := range map[string]string{"privileged": "", "idmap": lxcIDs} {
		t.Run(name, func(t *testing.T) {
			h := openHost(t)
			tree := need(t, h, "pids")
			d := startUnaided(t)
			rootfs := newRootfs(t, filepath.Join(publicDir(t), "rootfs"))
			for _, with := range []bool{true, false} {
				want, config := viewTypes(tree), idmap+lxcHook(t, d)
				if with {
					config += ourLXC(t, d)
				} else {
					want = fuseTypes(want)
				}
				s := typeScript(want)
				s.put(t, rootfs)
				out, err := newLXC(t, h, rootfs, "script", config).CombinedOutput()
				if err != nil {
					t.Fatalf("lxc-start: %v: %s", err, out)
				}
				s.check(t, rootfs, out)
				nothingLeft(t, d, h, "/lxc.payload."+lxcName())
			}
			d.stop(t)
		})
	}
}

// TestListenerLXCKills: the process that answers is killed while LXC asks it all the time.
func TestListenerLXCKills(t *testing.T) {
	if _, err := exec.LookPath("lxc-start"); err != nil {
		t.Skip("machine: lxc-start is not installed")
	}
	h := openHost(t)
	tree := need(t, h, "pids")
	d := startUnaided(t)
	rootfs := newRootfs(t, filepath.Join(publicDir(t), "rootfs"))
	at := topOf(guestView, tree)
	s := scripted{lines: []string{`loop-begin "` + at + `"`, "sleep", "loop-end"}}
	s.put(t, rootfs)
	cmd := newLXC(t, h, rootfs, "script", lxcHook(t, d)+ourLXC(t, d))
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	last := 0
	for range 10 {
		time.Sleep(100 * time.Millisecond)
		last = d.killAnswerer(t, last)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("lxc-start: %v: %s", err, &said)
	}
	out := strings.Split(readFile(filepath.Join(rootfs, "out")), "\n")
	t.Logf("eight threads were told %s", out[min(2, len(out)-1)])
	if want := "=" + viewTypes(tree)[at] + ":"; len(out) < 3 || !strings.HasPrefix(out[2], want) || strings.Contains(out[2], ",") {
		t.Errorf("want %s alone; LXC said %s", want, &said)
	}
	d.stop(t)
}

// ourLXC is the packaged configuration with the socket of a test's daemon and the packaged profile.
func ourLXC(t *testing.T, d *daemon) string {
	t.Helper()
	profile, err := filepath.Abs("../packaging/seccomp/lxc.profile")
	if err != nil {
		t.Fatal(err)
	}
	text := readFile("../packaging/runtimes/lxc-notify.conf")
	ours := strings.NewReplacer("/usr/share/vcgroupfs/seccomp/lxc.profile", profile, "/run/vcgroupfs/serve/notify", d.listeners())
	return ours.Replace(text)
}

// TestProfiles: the packaged profiles ask for what they say, and allow nothing else than their originals do.
func TestProfiles(t *testing.T) {
	for _, name := range []string{"podman.json", "docker.json"} {
		var profile struct {
			DefaultAction string
			ListenerPath  string
			Syscalls      []struct {
				Names    []string
				Action   string
				ErrnoRet *int
			}
		}
		if err := json.Unmarshal([]byte(readFile("../packaging/seccomp/"+name)), &profile); err != nil {
			t.Fatal(err)
		}
		actions := map[string][]string{}
		for _, rule := range profile.Syscalls {
			for _, call := range rule.Names {
				actions[call] = append(actions[call], rule.Action)
			}
		}
		for call, want := range map[string]string{
			"statfs": "SCMP_ACT_NOTIFY", "fstatfs": "SCMP_ACT_NOTIFY", "mount": "SCMP_ACT_NOTIFY", "fsopen": "SCMP_ACT_NOTIFY",
			"clone3": "SCMP_ACT_ERRNO", "read": "SCMP_ACT_ALLOW",
		} {
			if got := strings.Join(actions[call], ","); got != want {
				t.Errorf("%s: %s is %s, want %s", name, call, got, want)
			}
		}
		if profile.DefaultAction != "SCMP_ACT_ERRNO" || profile.ListenerPath == "" {
			t.Errorf("%s: %+v", name, profile)
		}
	}
}
