package integration

import (
	"fmt"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// renewable names a limit file of the v2 hierarchy and its controller, "" where there is none.
func renewable(hier *host.Hierarchy) (controller, file string) {
	if hier.Version != hierarchy.V2 {
		return "", ""
	}
	for _, c := range []string{"pids", "memory"} {
		if hier.Holds(c) {
			return c, c + ".max"
		}
	}
	if sizes, _ := filepath.Glob("/sys/kernel/mm/hugepages/hugepages-2048kB"); hier.Holds("hugetlb") && len(sizes) > 0 {
		return "hugetlb", "hugetlb.2MB.max"
	}
	return "", ""
}

// renewedSteps are about a control file that goes with its controller and comes back, while an earlier one is held. The
// directory f has every controller.
func renewedSteps(hier *host.Hierarchy) []step {
	controller, name := renewable(hier)
	if controller == "" {
		return nil
	}
	file := "f/" + name
	var steps []step
	add := func(name string, do func(x *traceEnv) string) { steps = append(steps, step{"renewed: " + name, do}) }
	renew := func(x *traceEnv) string {
		return kit.WriteFile(x.at("cgroup.subtree_control"), "-"+controller) + kit.WriteFile(x.at("cgroup.subtree_control"), "+"+controller)
	}
	for _, how := range []struct {
		name  string
		flags int
	}{{"read", unix.O_RDONLY}, {"write", unix.O_WRONLY}, {"read and write", unix.O_RDWR}, {"path", unix.O_PATH}} {
		add("held to "+how.name, func(x *traceEnv) string {
			s := ""
			for range 3 { // each time another is held
				fd, err := unix.Open(x.at(file), how.flags|unix.O_CLOEXEC, 0)
				s += kit.Word(err)
				defer func() { kit.Word(unix.Close(fd)) }()
				s += renew(x) + kit.ReadFile(x.at(file)) + kit.WriteFile(x.at(file), "max") + held(fd)
			}
			return s
		})
	}
	add("closed", func(x *traceEnv) string {
		fd, _ := unix.Open(x.at(file), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		return renew(x) + kit.ReadFile(x.at(file)) + kit.Word(unix.Close(fd)) + kit.ReadFile(x.at(file)) + kit.WriteFile(x.at(file), "max")
	})
	add("held and gone", func(x *traceEnv) string {
		fd, _ := unix.Open(x.at(file), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		s := kit.WriteFile(x.at("cgroup.subtree_control"), "-"+controller) + kit.ReadFile(x.at(file)) + held(fd)
		return s + kit.Word(unix.Close(fd)) + kit.WriteFile(x.at("cgroup.subtree_control"), "+"+controller) + kit.ReadFile(x.at(file))
	})
	return steps
}

// held is what a descriptor of a file that is gone answers: read, write, fstat, reopened.
func held(fd int) string {
	_, read := unix.Pread(fd, make([]byte, 10), 0)
	_, write := unix.Write(fd, []byte("max"))
	var st unix.Stat_t
	return fmt.Sprint(" ", kit.Word(read), kit.Word(write), kit.Word(unix.Fstat(fd, &st)), reopened(fd), " ")
}

// reopened opens what a descriptor leads to, without a path.
func reopened(fd int) string {
	again, err := unix.Open("/proc/self/fd/"+strconv.Itoa(fd), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err == nil {
		unix.Close(again)
	}
	return kit.Word(err)
}
