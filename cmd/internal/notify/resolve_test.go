package notify

import (
	"errors"
	"os"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// TestOwnPaths: a path by the caller's own directory in /proc leads to what its links lead to, and nowhere else in the supervisor's /proc.
func TestOwnPaths(t *testing.T) {
	proc, err := unix.Open("/proc/self", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(proc)
	c := &Caller{server: &server{}, proc: proc}
	here, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	fd := "/proc/self/fd/" + strconv.Itoa(int(here.Fd()))
	for name, want := range map[string]error{
		fd: nil, "/proc/self/cwd": nil, "/proc/self/cwd/resolve.go": nil, fd + "/none": unix.ENOENT,
		"/proc/self/fd/../../1": errElsewhere, "/proc/self/fd/../../none": errElsewhere, "/proc/self/fd/../root": errElsewhere,
		"/proc/self/cwd/../notify": nil, fd + "//../none": unix.ENOENT, "/proc/self/task": errElsewhere,
	} {
		got, mine, err := c.own(name)
		if err == nil {
			unix.Close(got)
		}
		if !mine || !errors.Is(err, want) {
			t.Errorf("%s: mine %v, %v; want %v", name, mine, err, want)
		}
	}
}
