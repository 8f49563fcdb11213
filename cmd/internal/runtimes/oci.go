package runtimes

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

var oci = &Hook{
	Name: "oci", Usage: "for runc, crun and what uses them: createRuntime and poststop",
	Description: "Reads the state of the container from standard input (OCI runtime specification, \"Hooks\"). " +
		"As createRuntime it adds a guest\n" +
		"of the container's name, whose boundary is the container's cgroup, and attaches the view in the container, " +
		"over what the\n" +
		"runtime mounted there. As poststop it removes the guest. The annotation " + ControllersAnnotation +
		" of a container\n" +
		"narrows what it is shown, within what --controllers and --policy allow.\n\n" +
		"   \"hooks\": {\n" +
		`     "createRuntime": [{"path": "/usr/bin/vcgroupfs", ` +
		`"args": ["vcgroupfs", "hook", "oci", "--controllers", "memory,pids"]}],` + "\n" +
		`     "poststop": [{"path": "/usr/bin/vcgroupfs", "args": ["vcgroupfs", "hook", "oci"]}]` + "\n" +
		"   }",
	Read: readOCI,
}

// maxHookInput bounds a runtime's description of a container, in bytes.
const maxHookInput = 4 << 20

// ociState is the state that a runtime passes to its hooks (config.md and runtime.md of the OCI runtime specification
// 1.0).
type ociState struct {
	ID          string            `json:"id"`
	Status      string            `json:"status"`
	Pid         int               `json:"pid"`
	Bundle      string            `json:"bundle"`
	Annotations map[string]string `json:"annotations"`
}

func readOCI(in Input) (Container, error) {
	raw, err := io.ReadAll(io.LimitReader(in.Stdin, maxHookInput))
	if err != nil {
		return Container{}, fmt.Errorf("cannot read the container's state: %w", err)
	}
	if len(bytes.TrimSpace(raw)) == 0 {
		return Container{}, fault.New(fault.Invalid,
			"standard input should have the container's state, and it is empty: a runtime gives it to its hooks")
	}
	var s ociState
	if err := json.Unmarshal(raw, &s); err != nil {
		return Container{}, fault.New(fault.Invalid,
			"cannot read the container's state from standard input: %v; a runtime gives it to its hooks", err)
	}
	return s.container(os.ReadFile)
}

func (s ociState) container(readFile func(string) ([]byte, error)) (Container, error) {
	box := Container{ID: s.ID, Pid: s.Pid, Annotations: s.Annotations}
	if s.Bundle != "" {
		// crun passes another spelling to poststop than to createRuntime.
		box.Of = filepath.Clean(s.Bundle)
	}
	switch {
	case s.ID == "":
		return box, fault.New(fault.Invalid, "the container's state has no id")
	case s.Status == "stopped" && s.Pid > 0 && !endedIn(s.Pid, stoppedWait):
		return box, fmt.Errorf("the state says that container %s is stopped, but its process %d lives", s.ID, s.Pid)
	case s.Status == "stopped":
		box.Pid = 0
		return box, nil
	case s.Status != "creating" && s.Status != "created":
		return box, fault.New(fault.Invalid,
			"container %s is %q: this hook is for createRuntime and poststop", s.ID, s.Status)
	case s.Pid <= 0:
		return box, fault.New(fault.Invalid,
			"the state of container %s has no pid: this hook is for createRuntime and poststop", s.ID)
	case !filepath.IsAbs(s.Bundle):
		return box, fault.New(fault.Invalid, "the bundle of container %s is %q, no absolute path", s.ID, s.Bundle)
	}
	raw, err := readFile(filepath.Join(s.Bundle, "config.json"))
	if err != nil {
		return box, fmt.Errorf("cannot read the configuration of container %s: %w", s.ID, err)
	}
	var config struct {
		Root struct {
			Path string `json:"path"`
		} `json:"root"`
	}
	if err := json.Unmarshal(raw, &config); err != nil {
		return box, fmt.Errorf("cannot read the configuration of container %s: %w", s.ID, err)
	}
	if config.Root.Path == "" {
		return box, fmt.Errorf("the configuration of container %s has no root.path", s.ID)
	}
	box.Rootfs = config.Root.Path
	if !filepath.IsAbs(box.Rootfs) {
		box.Rootfs = filepath.Join(s.Bundle, box.Rootfs)
	}
	box.Rootfs = filepath.Clean(box.Rootfs)
	return box, nil
}

// stoppedWait bounds the end of a process that the runtime reports as stopped: it was just killed.
const stoppedWait = 5 * time.Second

// endedIn reports that a process ends in time: its number is free or a zombie's.
func endedIn(pid int, wait time.Duration) bool {
	for until := time.Now().Add(wait); ; time.Sleep(time.Millisecond) {
		if _, err := host.StartOf(pid); err != nil {
			return true
		}
		if time.Now().After(until) {
			return false
		}
	}
}

// ListenerState is the state that a runtime sends with the listener of a container: "The Container Process State" in
// config-linux.md of the OCI runtime specification, of linux.seccomp.listenerPath.
//
// runc 1.1.5 sends it after the createRuntime hooks, and again for each process that it executes in the container. crun
// 1.8.1 lets the container's process send it. For a process that it executes in the container it sends the container's
// name alone: the pids are 0.
type ListenerState struct {
	FDs   []string `json:"fds"` // names of the descriptors that come with it
	Pid   int      `json:"pid"` // of the process with the filter
	State struct {
		ID  string `json:"id"`
		Pid int    `json:"pid"` // of the container's first process
	} `json:"state"`
}

// Container returns the listener's container; Pid is 0 where the state does not tell. The error says that it names
// none.
func (s *ListenerState) Container() (Container, error) {
	box := Container{ID: s.State.ID, Pid: s.State.Pid}
	if box.Pid == 0 {
		box.Pid = s.Pid
	}
	if box.ID == "" || box.Pid < 0 {
		return box, errors.New("the state names no container")
	}
	return box, nil
}

// Listener returns the index of the listener among the descriptors, -1 for none.
func (s *ListenerState) Listener() int { return slices.Index(s.FDs, "seccompFd") }
