//go:build failpoints

package listener

import (
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// failpoint kills this process at the point of VCGROUPFS_FAILPOINT=NAME:COUNT, COUNT times in all. The size of
// VCGROUPFS_FAILPOINT_FILE counts the deaths.
func failpoint(name string) {
	want, count, _ := strings.Cut(os.Getenv("VCGROUPFS_FAILPOINT"), ":")
	most, _ := strconv.ParseInt(count, 10, 64)
	if want != name {
		return
	}
	f, err := os.OpenFile(os.Getenv("VCGROUPFS_FAILPOINT_FILE"), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || st.Size() >= most {
		return
	}
	f.Write([]byte{'x'})
	unix.Kill(unix.Getpid(), unix.SIGKILL)
	select {}
}
