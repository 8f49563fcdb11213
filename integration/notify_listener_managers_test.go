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
	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// Containers of podman, Docker and LXC with the packaged profiles.

// typeScript asks for the types of a view.
func typeScript(want map[string]string) (s kit.Script) {
	for path, kind := range want {
		for _, op := range []string{"type", "ftype"} {
			s.Lines, s.Want = append(s.Lines, op+` "`+path+`"`), append(s.Want, "="+kind)
		}
	}
	s.Lines, s.Want = append(s.Lines, `type "/proc"`), append(s.Want, "="+kit.ProcType)
	return s
}

// fuseTypes are the same places without a listener.
func fuseTypes(want map[string]string) map[string]string {
	all := map[string]string{}
	for path := range want {
		all[path] = kit.FUSEType
	}
	return all
}

// TestListenerPodman: a container with the packaged profile, and one with podman's own.
func TestListenerPodman(t *testing.T) {
	program := kit.NeedPodman(t)
	kit.NeedRuntime(t, "runc")
	for _, layout := range []string{"own", "v2"} {
		t.Run(layout, func(t *testing.T) {
			h := kit.OpenHost(t)
			hier, args := kit.HierarchyOfLayout(t, h, layout)
			d := kit.StartUnaidedDaemon(t)
			hooks := t.TempDir()
			kit.InstallPackaged(t, d, "../packaging/runtimes/vcgroupfs.json", filepath.Join(hooks, "vcgroupfs.json"), "", args...)
			rootfs := kit.NewRootfs(t, filepath.Join(kit.PublicDir(t), "rootfs"))
			for _, with := range []bool{true, false} {
				want, options := kit.ViewTypes(hier), []string{"--annotation", "dev.vcgroupfs=true"}
				if with {
					options = append(options, "--security-opt", "seccomp="+kit.PackagedProfile(t, d, "podman.json"))
				} else {
					want = fuseTypes(want)
				}
				s := typeScript(want)
				s.Put(t, rootfs)
				out, err := kit.NewPodman(t, h, program).Run("script", rootfs, []string{"--hooks-dir", hooks}, options).CombinedOutput()
				if err != nil {
					t.Fatalf("podman: %v: %s", err, out)
				}
				s.Check(t, rootfs, out)
			}
			d.Stop(t)
		})
	}
}

// TestListenerDocker: the same of Docker, and a container that may mount.
func TestListenerDocker(t *testing.T) {
	h := kit.OpenHost(t)
	hier := kit.NeedHierarchy(t, h, "pids")
	d := kit.StartUnaidedDaemon(t)
	cdi := t.TempDir()
	kind := kit.PackagedDevices(t, d, cdi)
	k := kit.StartDocker(t, h, cdi, false)
	ours := "seccomp=" + kit.PackagedProfile(t, d, "docker.json")
	for name, options := range map[string][]string{
		"own": nil, "ours": {"--security-opt", ours},
		"ours, may mount": {"--security-opt", ours, "--cap-add", "SYS_ADMIN", "--security-opt", "apparmor=unconfined"},
	} {
		t.Run(name, func(t *testing.T) {
			always := []string{"--device", kind + "=view", "--pids-limit", "64", "--cgroupns", "private"}
			cmd := k.Run("commands", append(always, options...)...)
			cmd.Stderr = os.Stderr
			x := kit.StartProcess(t, cmd)
			want := kit.ViewTypes(hier)
			if options == nil {
				want = fuseTypes(want)
			}
			want["/proc"] = kit.ProcType
			x.WantTypes(t, want)
			if strings.Contains(name, "may") && hier.Version == hierarchy.V1 {
				got := x.Ask(t, "mkdir", "/tmp/m") + x.Ask(t, "mount", "/tmp/m", "cgroup", strings.Join(hier.Controllers, ",")) +
					x.Ask(t, "type", "/tmp/m") + x.Ask(t, "read", "/tmp/m/pids.max")
				if got != "okok"+kit.CgroupType+"64\n" {
					t.Errorf("a mount of its own: %q", got)
				}
			}
			x.End(t)
		})
	}
	d.Stop(t)
}

// TestListenerLXC: a container of LXC whose monitor asks the daemon for each call.
func TestListenerLXC(t *testing.T) {
	if _, err := exec.LookPath("lxc-start"); err != nil {
		t.Skip("machine: lxc-start is not installed")
	}
	for name, idmap := range map[string]string{"privileged": "", "idmap": kit.LXCIDs} {
		t.Run(name, func(t *testing.T) {
			h := kit.OpenHost(t)
			hier := kit.NeedHierarchy(t, h, "pids")
			d := kit.StartUnaidedDaemon(t)
			rootfs := kit.NewRootfs(t, filepath.Join(kit.PublicDir(t), "rootfs"))
			for _, with := range []bool{true, false} {
				want, config := kit.ViewTypes(hier), idmap+kit.LXCHook(t, d)
				if with {
					config += kit.PackagedLXC(t, d)
				} else {
					want = fuseTypes(want)
				}
				s := typeScript(want)
				s.Put(t, rootfs)
				out, err := kit.NewLXC(t, h, rootfs, "script", config).CombinedOutput()
				if err != nil {
					t.Fatalf("lxc-start: %v: %s", err, out)
				}
				s.Check(t, rootfs, out)
				kit.WantNothingLeft(t, d, h, "/lxc.payload."+kit.LXCName())
			}
			d.Stop(t)
		})
	}
}

// TestListenerLXCKills: the process that answers is killed while LXC asks it all the time.
func TestListenerLXCKills(t *testing.T) {
	if _, err := exec.LookPath("lxc-start"); err != nil {
		t.Skip("machine: lxc-start is not installed")
	}
	h := kit.OpenHost(t)
	hier := kit.NeedHierarchy(t, h, "pids")
	d := kit.StartUnaidedDaemon(t)
	rootfs := kit.NewRootfs(t, filepath.Join(kit.PublicDir(t), "rootfs"))
	at := kit.TopOf(kit.GuestView, hier)
	s := kit.Script{Lines: []string{`loop-begin "` + at + `"`, "sleep", "loop-end"}}
	s.Put(t, rootfs)
	cmd := kit.NewLXC(t, h, rootfs, "script", kit.LXCHook(t, d)+kit.PackagedLXC(t, d))
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	last := 0
	for range 10 {
		time.Sleep(100 * time.Millisecond)
		last = d.KillAnswerer(t, last)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("lxc-start: %v: %s", err, &said)
	}
	out := strings.Split(kit.ReadFile(filepath.Join(rootfs, "out")), "\n")
	t.Logf("eight threads were told %s", out[min(2, len(out)-1)])
	if want := "=" + kit.ViewTypes(hier)[at] + ":"; len(out) < 3 || !strings.HasPrefix(out[2], want) || strings.Contains(out[2], ",") {
		t.Errorf("want %s alone; LXC said %s", want, &said)
	}
	d.Stop(t)
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
		if err := json.Unmarshal([]byte(kit.ReadFile("../packaging/seccomp/"+name)), &profile); err != nil {
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
