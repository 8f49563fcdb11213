//go:build failpoints

package fs

import (
	"os"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// lastDone is the name of the last finished operation.
var lastDone atomic.Value

// A program built with -tags failpoints kills itself (SIGKILL) at the point VCGROUPFS_FAILPOINT=NAME[:COUNT], COUNT
// times in all (default 1). The size of VCGROUPFS_FAILPOINT_FILE counts the deaths. With
// VCGROUPFS_FAILPOINT_ACT=panic it panics instead, with =crash it exits as after a crash.
var failName, failCount, failFile = readFailpoint()

func readFailpoint() (name string, count int64, file string) {
	name, n, counted := strings.Cut(os.Getenv("VCGROUPFS_FAILPOINT"), ":")
	count = 1
	if counted {
		count, _ = strconv.ParseInt(n, 10, 64)
	}
	return name, count, os.Getenv("VCGROUPFS_FAILPOINT_FILE")
}

// failpoint is a point in the program. "replied" belongs to the last finished operation.
func failpoint(name string) {
	if done, ok := strings.CutSuffix(name, "-done"); ok {
		lastDone.Store(done)
	} else if name == "replied" {
		last, _ := lastDone.Swap("").(string)
		name = last + "-replied"
	}
	if failName == "" || name != failName {
		return
	}
	f, err := os.OpenFile(failFile, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return
	}
	if st, err := f.Stat(); err != nil || st.Size() >= failCount {
		f.Close()
		return
	}
	f.Write([]byte{'x'})
	f.Close()
	switch os.Getenv("VCGROUPFS_FAILPOINT_ACT") {
	case "panic":
		panic("a fail point")
	case "crash":
		// As a fatal error of the runtime, which nothing recovers.
		os.Exit(2)
	}
	unix.Kill(unix.Getpid(), unix.SIGKILL)
	select {}
}
