package daemon

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// connections is where the kernel counts the requests of each FUSE connection that wait for an answer.
const connections = "/sys/fs/fuse/connections"

// stall is a guest's state at the last scrape.
type stall struct {
	since    time.Time // of the first scrape that found the guest waiting without an answer in between; zero: not waiting
	answered uint64
}

// look returns the time for which the guest has waited without any answer. A busy guest has requests waiting at each
// scrape, and answers in between.
func (s *stall) look(waiting bool, answered uint64, now time.Time) time.Duration {
	switch {
	case !waiting:
		s.since = time.Time{}
	case s.since.IsZero() || answered != s.answered:
		s.since = now
	}
	s.answered = answered
	if s.since.IsZero() {
		return 0
	}
	return now.Sub(s.since)
}

// stalled returns the longest time for which a guest has waited. Below 0 where fusectl is not mounted.
func stalled(guests []*guest, now time.Time) (longest time.Duration) {
	if !fusectlMounted() {
		return -1
	}
	for _, g := range guests {
		if g.served() != nil {
			waits := waiting(g.region.Device())
			longest = max(longest, g.counts.stall.look(waits, g.counts.requests.Load(), now))
		}
	}
	return longest
}

// fusectlMounted reports that the directory is more than the mount point that sysfs has (FUSE_CTL_SUPER_MAGIC,
// fs/fuse/control.c).
func fusectlMounted() bool {
	var st unix.Statfs_t
	return unix.Statfs(connections, &st) == nil && st.Type == fuseCtlSuperMagic
}

const fuseCtlSuperMagic = 0x65735543

// waiting reports that the kernel has unanswered requests of a connection, whose number is the minor of its file
// system's device. A connection that has ended has none.
func waiting(device uint64) bool {
	count, err := os.ReadFile(fmt.Sprintf("%s/%d/waiting", connections, unix.Minor(device)))
	return err == nil && string(count) != "0\n"
}
