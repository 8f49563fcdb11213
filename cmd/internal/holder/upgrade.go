package holder

import (
	"fmt"
	"path/filepath"
	"time"

	"github.com/sirupsen/logrus"
)

// An upgrade has three phases (upgradePhase): a worker of the new program is spawned and prepares; the old one drains,
// which is to answer the requests that it has read, and exits; the new one is sent the kept descriptors, and is on
// trial until it serves. A failure in the first phase changes nothing; one in the last brings the old program back.

const (
	prepareWait = 10 * time.Second // for a new worker to say that it is prepared
	drainWait   = 5 * time.Second  // for an old one to exit; the kernel resends the requests that it leaves
)

// beginUpgrade spawns a worker of another program, "" for the file that the holder was started from.
func (m *machine) beginUpgrade(path string) {
	if path == "" {
		path = m.own
	}
	switch {
	case m.mode != running:
		m.refuseUpgrade("cannot upgrade: vcgroupfs serve is ending")
	case m.upgrade != noUpgrade:
		m.refuseUpgrade("cannot upgrade: another upgrade is under way")
	case m.current.phase != serving:
		m.refuseUpgrade("cannot upgrade: a worker is only just starting; try again")
	case !filepath.IsAbs(path):
		m.refuseUpgrade("cannot upgrade to %q: give an absolute path", path)
	default:
		id := m.newID()
		m.next = child{id: id, program: id, phase: starting, deadline: m.now.Add(prepareWait)}
		m.upgrade, m.path = preparing, path
		m.actions = append(m.actions, action{verb: spawnWorker, child: id, program: id, text: path})
	}
}

func (m *machine) upgradeBegan() {
	m.log(logrus.InfoLevel, "the holder upgrades to %s", m.path)
	m.do(notifyReload, child{})
}

// refuseUpgrade tells the worker that passed the request on why it stays.
func (m *machine) refuseUpgrade(format string, args ...any) {
	why := fmt.Sprintf(format, args...)
	m.log(logrus.ErrorLevel, "%s", why)
	m.do(notifyReady, child{})
	if m.current.phase != absent {
		m.actions = append(m.actions, action{verb: reportUpgrade, child: m.current.id, text: why})
	}
}

// upgradeFailed ends an upgrade whose worker did not get prepared.
func (m *machine) upgradeFailed(format string, args ...any) {
	m.closeProgram(m.next.program)
	m.next, m.upgrade = child{}, noUpgrade
	m.refuseUpgrade(format, args...)
}

// handOver drains the old worker, since the next one is prepared. Where there is none at this moment the next one
// serves at once.
func (m *machine) handOver() {
	m.upgrade = handingOver
	if m.outage.IsZero() {
		m.outage = m.now
	}
	if m.current.phase == absent {
		m.promote()
		return
	}
	m.current.phase, m.current.deadline = draining, m.now.Add(drainWait)
	m.do(drainWorker, m.current)
}

// promote has the prepared worker resume the guests: the old one has exited.
func (m *machine) promote() {
	m.previous, m.program = m.program, m.next.program
	m.current, m.next = m.next, child{}
	m.upgrade = onTrial
	m.beatAt = m.now
	m.advance()
}

// upgradeServes ends an upgrade that succeeded.
func (m *machine) upgradeServes() {
	m.log(logrus.InfoLevel, "the worker of %s serves (process %d)", m.path, m.current.pid)
	m.closeProgram(m.previous)
	m.previous, m.upgrade = 0, noUpgrade
	m.renewAnswerer()
}

// rollBack brings the program before the upgrade back, since the new one ended before it served.
func (m *machine) rollBack() {
	m.log(logrus.ErrorLevel, "the worker of %s ended with %s before it served: the holder rolls the upgrade back",
		m.path, m.reason)
	m.closeProgram(m.program)
	m.program, m.previous, m.upgrade = m.previous, 0, noUpgrade
}
