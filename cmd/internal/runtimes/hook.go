package runtimes

import (
	"io"
	"strconv"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
)

// ControllersAnnotation is the annotation of a container that narrows the controllers which it is shown.
const ControllersAnnotation = "dev.vcgroupfs.controllers"

// Hook is a subcommand of "vcgroupfs hook".
type Hook struct {
	Name, Usage, Description string // of the subcommand

	// Read returns the container that the runtime describes. fault.Invalid for what no runtime would say.
	Read func(Input) (Container, error)
}

// Input is the runtime's input to a hook.
type Input struct {
	Stdin  io.Reader
	Getenv func(string) string
}

// Container is a runtime's description of a container.
type Container struct {
	ID          string
	Pid         int // of its first process; 0 once that has ended
	Rootfs      string
	Annotations map[string]string
	Of          string // distinguishes it from others of the same name: its bundle, or its configuration's file
}

// pid returns a process number in an environment variable.
func (in Input) pid(variable string) (int, error) {
	text := in.Getenv(variable)
	pid, err := strconv.Atoi(text)
	if err != nil || pid <= 0 {
		return 0, fault.New(fault.Invalid, "%s is %q, the number of no process", variable, text)
	}
	return pid, nil
}
