package listener

import (
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// away moves this process out of the cgroup of the service that started it. A service manager that ends the service
// kills the processes there (KillMode= of systemd.kill(5)). The new cgroup is below that of the guests of "run", in the
// hierarchies in which systemd keeps services.
type away struct {
	host *host.Host
	log  *logrus.Entry
	left []*host.Hierarchy
}

// parent is the cgroup of the program's own cgroups.
const parent = "/vcgroupfs"

func (x *away) path() string { return parent + "/serve-notify-" + strconv.Itoa(os.Getpid()) }

// leave moves this process. On failure the service's end may kill it.
func (x *away) leave() {
	for _, t := range x.host.Hierarchies() {
		if t.Version != hierarchy.V2 && !slices.Contains(t.Names(), "name=systemd") {
			continue
		}
		err := t.Create(x.path(), 0o755)
		if err == nil {
			x.left = append(x.left, t)
			err = t.Attach(x.path(), os.Getpid())
		}
		if err != nil {
			x.log.WithError(err).Warnf(
				"cannot leave the service's cgroup in the hierarchy %s: it may be killed with the service", t)
		}
	}
}

// comeBack removes the cgroups that leave made.
func (x *away) comeBack() {
	for _, t := range x.left {
		err := t.Attach("/", os.Getpid())
		if err == nil {
			err = t.RemoveAll(x.path())
		}
		if err != nil {
			x.log.WithError(err).Warnf("cannot remove %s from the hierarchy %s", x.path(), t)
		}
		// Other guests may be there.
		_ = t.RemoveIfEmpty(parent)
	}
}

// refusals limits log messages about refusals to one in a second.
type refusals struct {
	mu   sync.Mutex
	last time.Time // guarded by mu
}

// refuse logs the refusal of a listener.
func (a *answerer) refuse(err error) {
	a.refusals.mu.Lock()
	defer a.refusals.mu.Unlock()
	if time.Since(a.refusals.last) < time.Second {
		return
	}
	a.refusals.last = time.Now()
	a.log.WithError(err).Warn("a listener is refused")
}
