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

// away takes this process out of the cgroup of the service that started it: a service manager that ends the service
// kills what is there (KillMode= of systemd.kill(5)). Its place is below that of the guests of "run", in the
// hierarchies by which systemd knows services.
type away struct {
	host *host.Host
	log  *logrus.Entry
	left []*host.Hierarchy
}

// parent is where the program makes cgroups of its own.
const parent = "/vcgroupfs"

func (x *away) path() string { return parent + "/serve-notify-" + strconv.Itoa(os.Getpid()) }

// leave leaves. Where that fails this process may be killed with the service.
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
			x.log.WithError(err).Warnf("cannot leave the service's cgroup in the hierarchy %s: it may be killed with the service", t)
		}
	}
}

// comeBack leaves nothing behind.
func (x *away) comeBack() {
	for _, t := range x.left {
		err := t.Attach("/", os.Getpid())
		if err == nil {
			err = t.RemoveAll(x.path())
		}
		if err != nil {
			x.log.WithError(err).Warnf("cannot remove %s from the hierarchy %s", x.path(), t)
		}
		_ = t.RemoveIfEmpty(parent) // another's guests may be there
	}
}

// refusals are said, but no more than one in a second.
type refusals struct {
	mu   sync.Mutex
	last time.Time // guarded by mu
}

// refuse says why somebody is not served.
func (a *answerer) refuse(err error) {
	a.refusals.mu.Lock()
	defer a.refusals.mu.Unlock()
	if time.Since(a.refusals.last) < time.Second {
		return
	}
	a.refusals.last = time.Now()
	a.log.WithError(err).Warn("a listener is refused")
}
