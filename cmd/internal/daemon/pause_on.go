//go:build failpoints

package daemon

import (
	"os"
	"strconv"
	"time"
)

// pauseForTest waits for VCGROUPFS_FAILPOINT_PAUSE milliseconds, once a failpoint was hit, before a worker resumes.
func pauseForTest() {
	ms, err := strconv.Atoi(os.Getenv("VCGROUPFS_FAILPOINT_PAUSE"))
	if err != nil {
		return
	}
	if st, err := os.Stat(os.Getenv("VCGROUPFS_FAILPOINT_FILE")); err == nil && st.Size() > 0 {
		time.Sleep(time.Duration(ms) * time.Millisecond)
	}
}
