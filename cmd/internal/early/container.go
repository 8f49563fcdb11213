package early

import (
	"io"
	"os"
	"strconv"
	"syscall"
)

// container is a container, as its runtime describes it to a hook.
type container struct {
	id, of string // of: its bundle, or its configuration's file
	pid    int    // of its first process; 0 once that has ended
	rootfs string // empty: the root of that process
}

// annotation narrows the controllers of a container. The rest of the program knows how.
const annotation = "dev.vcgroupfs.controllers"

// Bounds of a runtime's description of a container and of the container's configuration, in bytes. The rest of the
// program takes longer ones.
const (
	maxState  = 64 << 10
	maxConfig = 1 << 20
)

// ofOCI reads the state on standard input (OCI runtime specification, runtime.md, "State").
func ofOCI() (box container, ok bool) {
	var whole bool
	given, whole = readAll(os.Stdin, maxState)
	if !whole {
		return box, false
	}
	var status string
	ok = members(given, func(key string, value []byte) (ok bool) {
		ok = true
		switch key {
		case "id":
			box.id, ok = plain(value)
		case "status":
			status, ok = plain(value)
		case "bundle":
			box.of, ok = plain(value)
		case "pid":
			box.pid, ok = number(value)
		case "annotations":
			ok = string(value) == "null" || members(value, func(key string, _ []byte) bool { return key != annotation })
		}
		return ok
	})
	if !ok || box.of != "" && !isClean(box.of) {
		return box, false
	}
	switch status {
	case "creating", "created":
		if box.pid <= 0 || box.of == "" {
			return box, false
		}
		box.rootfs, ok = rootOf(box.of)
		return box, ok
	case "stopped":
		// Else the process may be a zombie, or end soon.
		ok = box.pid == 0 || box.pid > 0 && syscall.Kill(box.pid, 0) == syscall.ESRCH
		box.pid = 0
		return box, ok
	}
	return box, false
}

// rootOf returns the root of the container of a bundle (OCI runtime specification, config.md, "Root").
func rootOf(bundle string) (root string, ok bool) {
	f, err := os.Open(bundle + "/config.json")
	if err != nil {
		return "", false
	}
	defer f.Close()
	config, whole := readAll(f, maxConfig)
	ok = whole && members(config, func(key string, value []byte) bool {
		return key != "root" || members(value, func(key string, value []byte) (ok bool) {
			if key != "path" {
				return true
			}
			root, ok = plain(value)
			return ok
		})
	})
	if root != "" && root[0] != '/' {
		root = bundle + "/" + root
	}
	return root, ok && isClean(root)
}

// ofLXC reads the environment of a hook of LXC (lxc.container.conf(5), "CONTAINER HOOKS ENVIRONMENT VARIABLES").
func ofLXC() (box container, ok bool) {
	box = container{id: os.Getenv("LXC_NAME"), of: os.Getenv("LXC_CONFIG_FILE")}
	switch os.Getenv("LXC_HOOK_TYPE") {
	case "start-host":
		box.pid, ok = number([]byte(os.Getenv("LXC_PID")))
		return box, ok && box.pid > 0
	case "post-stop":
		return box, true
	}
	return box, false
}

// number returns a whole number in JSON, or in an environment variable. Not ok for any other value.
func number(value []byte) (n int, ok bool) {
	n, err := strconv.Atoi(string(value))
	return n, err == nil
}

// isName reports that a container's name can be a guest's. The daemon refuses some of them, which the rest of the
// program replaces by others.
func isName(name string) bool {
	for i, c := range []byte(name) {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_'
		if !letter && (i == 0 || c != '.' && c != '-') {
			return false
		}
	}
	return name != "" && len(name) <= 64
}

// readAll reads a file up to its end, which whole reports.
func readAll(f *os.File, most int) (content []byte, whole bool) {
	content = make([]byte, 0, 16<<10)
	for len(content) <= most {
		if len(content) == cap(content) {
			content = append(content, 0)[:len(content)]
		}
		n, err := f.Read(content[len(content):cap(content)])
		content = content[:len(content)+n]
		if n == 0 {
			return content, err == io.EOF
		}
	}
	return content, false
}
