package main

import (
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/early"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
)

// stdin gives this process a standard input.
func stdin(t *testing.T, text string) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "stdin"))
	if err == nil {
		_, err = f.WriteString(text)
	}
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		t.Fatal(err)
	}
	old := os.Stdin
	os.Stdin = f
	t.Cleanup(func() {
		early.Answered(nil) // it forgets what it has read
		os.Stdin = old
		f.Close()
	})
}

// container returns the state of a container as a runtime tells it, with a bundle of its own.
func container(t *testing.T, status, root, more string) string {
	t.Helper()
	bundle := t.TempDir()
	config := `{"ociVersion": "1.0.2", "root": {"path": "` + root + `"}, "hooks": {}}`
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	state := `{"ociVersion":"1.0.2","id":"new","status":"` + status + `","bundle":"` + bundle + `"` + more
	if status != "stopped" {
		state += `,"pid":` + strconv.Itoa(os.Getpid())
	}
	return state + "}"
}

// TestHookEarly: a hook asks the daemon for the same, whether package early does it or the rest of the program.
func TestHookEarly(t *testing.T) {
	d := &fakeDaemon{}
	d.run(t)
	policy := filepath.Join(t.TempDir(), "p.yaml")
	if err := os.WriteFile(policy, []byte("version: 1\n# \"ä\\\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ args, status, root, more string }{
		{"", "creating", "rootfs", ""},
		{"", "created", "/srv/rootfs", `,"annotations":null`},
		{"--controllers memory,pids+cpu --layout v1 --stack", "creating", "rootfs", `,"annotations":{"a":"\"b\""}`},
		{"--controllers=pids --layout=auto --no-stack --tmpfs --proc-cgroups --into /x --made-by nri", "creating", "a b", ""},
		{"--policy " + policy, "creating", "rootfs", ""},
		{"", "stopped", "rootfs", ""},
	} {
		state := container(t, c.status, c.root, c.more)
		line := append([]string{"vcgroupfs", "hook", "oci"}, strings.Fields(c.args)...)
		stdin(t, state)
		if !early.Answered(line) {
			t.Errorf("%s, %s: left to the rest of the program", c.args, state)
		}
		soon := d.last()
		stdin(t, state)
		early.Answered(nil)
		if status := execute(line, io.Discard, os.Stderr); status != fault.ExitOK {
			t.Errorf("%s, %s: status %d", c.args, state, status)
		}
		if late := d.last(); soon != late || (soon == "") != (c.status == "stopped") {
			t.Errorf("%s, %s: early asks for\n%s, the rest of the program for\n%s", c.args, state, soon, late)
		}
	}
}

// TestHookEarlyLXC is the like for LXC, which describes a container by its environment.
func TestHookEarlyLXC(t *testing.T) {
	d := &fakeDaemon{}
	d.run(t)
	t.Setenv("LXC_NAME", "web")
	t.Setenv("LXC_CONFIG_FILE", "/var/lib/lxc/web/a config")
	t.Setenv("LXC_PID", strconv.Itoa(os.Getpid()))
	for _, kind := range []string{"start-host", "post-stop"} {
		t.Setenv("LXC_HOOK_TYPE", kind)
		line := []string{"vcgroupfs", "hook", "lxc", "--controllers", "pids"}
		if !early.Answered(line) {
			t.Errorf("%s: left to the rest of the program", kind)
		}
		soon := d.last()
		if status := execute(line, io.Discard, os.Stderr); status != fault.ExitOK {
			t.Errorf("%s: status %d", kind, status)
		}
		if late := d.last(); soon != late || soon == "" {
			t.Errorf("%s: early asks for\n%s, the rest of the program for\n%s", kind, soon, late)
		}
	}
}

// TestHookLate: what is unusual, or refused, is left to the rest of the program, which gets the whole state.
func TestHookLate(t *testing.T) {
	d := &fakeDaemon{}
	d.run(t)
	usual := container(t, "creating", "rootfs", "")
	for what, c := range map[string]struct{ args, state string }{
		"option":     {"hook oci --help", usual},
		"hook":       {"hook crun", usual},
		"annotation": {"hook oci", container(t, "creating", "rootfs", `,"annotations":{"dev.vcgroupfs.controllers":"pids"}`)},
		"name":       {"hook oci", strings.Replace(usual, `"new"`, `"a/b"`, 1)},
		"status":     {"hook oci", container(t, "running", "rootfs", "")},
		"root":       {"hook oci", container(t, "creating", "../rootfs", "")},
		"lives":      {"hook oci", container(t, "stopped", "rootfs", `,"pid":`+strconv.Itoa(os.Getpid()))},
		"state":      {"hook oci", "nonsense"},
		"layout":     {"hook oci --layout v3", usual},
		"policy":     {"hook oci --policy /nowhere", usual},
		"daemon":     {"hook oci --socket /nowhere", usual},
		"log":        {"--log-level debug version", ""},
		"arguments":  {"version x", ""},
	} {
		stdin(t, c.state)
		if early.Answered(append([]string{"vcgroupfs"}, strings.Fields(c.args)...)) || d.last() != "" {
			t.Errorf("%s: answered early", what)
		}
		rest, err := io.ReadAll(early.Stdin())
		if err != nil || string(rest) != c.state {
			t.Errorf("%s: the rest of the program reads %q, %v; want %q", what, rest, err, c.state)
		}
	}
	d.err = fault.New(fault.Conflict, "no")
	stdin(t, usual)
	if early.Answered([]string{"vcgroupfs", "hook", "oci"}) {
		t.Error("a refusal counts as success")
	}
	if early.Answered([]string{"/sbin/mount.vcgroupfs", "version"}) {
		t.Error("the mount helper takes its source for a command")
	}
}

// TestHookOfEarlierDaemon: a daemon that does not find the controllers itself is told them.
func TestHookOfEarlierDaemon(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	asked := 0
	go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked++
		w.WriteHeader(http.StatusBadRequest)
		io.WriteString(w, `{"code": "invalid", "message": "unknown field \"ofRuntime\"; allowed: boundary, pid"}`)
	}))
	t.Setenv("VCGROUPFS_SOCKET", socket)
	stdin(t, container(t, "creating", "rootfs", ""))
	var said strings.Builder
	// This process is in no cgroup of its own, so the program itself must find that nothing can be shown.
	if status := execute([]string{"vcgroupfs", "hook", "oci"}, io.Discard, &said); status == fault.ExitOK ||
		!strings.Contains(said.String(), "the runtime has made it no cgroup") || asked != 1 {
		t.Errorf("status %d, %q, asked %d times", status, said.String(), asked)
	}
}

// TestEarlyConstants: package early has no imports of the module, and so some words of other packages of its own.
func TestEarlyConstants(t *testing.T) {
	if c := hookCommand(); len(c.Subcommands) != 2 {
		t.Errorf("there are %d hooks, and package early knows two", len(c.Subcommands))
	}
	if early.Socket != api.DefaultSocket {
		t.Errorf("the default socket is %s and %s", early.Socket, api.DefaultSocket)
	}
}
