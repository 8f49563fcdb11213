package holder

import (
	"slices"
	"time"

	"github.com/sirupsen/logrus"
)

const (
	// lingerWait is how long a dead worker may take to be reaped. After it one of its threads may wait for an answer
	// that only the next worker gives, so that one is spawned. The thread may also still be in a call of the host's, on
	// a busy machine: the next worker makes no change that was begun before until the dead one is gone (Start.Dying).
	lingerWait = 30 * time.Millisecond
	// stopWait is how long a worker may take to remove all guests.
	stopWait = 30 * time.Second
	// abandonWait is how long killed workers may take to exit.
	abandonWait = 2 * time.Second
	// failurePause is how long the next worker waits for each one in a row that ended before it served, up to maxPause.
	failurePause = 20 * time.Millisecond
	maxPause     = time.Second
)

// worker finds a worker by its id; nil for one that was replaced.
func (m *machine) worker(id int) *child {
	switch id {
	case m.current.id:
		return &m.current
	case m.next.id:
		return &m.next
	}
	return nil
}

func (m *machine) handleWorker(e event) {
	w := m.worker(e.child)
	if w == nil {
		if e.kind == childExited {
			m.lingering = slices.DeleteFunc(slices.Clone(m.lingering), func(c child) bool { return c.id == e.child })
		}
		return
	}
	switch e.kind {
	case childSpawned:
		w.pid = e.pid
		if w == &m.next {
			m.upgradeBegan()
		}
	case spawnFailed:
		m.spawnFailed(w, e.text)
	case childPrepared:
		if w.phase == starting {
			w.phase, w.deadline = prepared, time.Time{}
			m.advance()
		}
	case childServes:
		if w == &m.current && w.phase == resuming {
			m.workerServes()
		}
	case linkClosed:
		if w.phase != draining {
			m.kill(*w) // the holder could not keep the descriptors that it opens from now on
		}
	case lifelineBroke:
		if w == &m.current {
			w.severed, w.outcome, w.exit = m.now, e.text, e.exit
		}
	case childExited:
		m.workerExited(w, e)
	}
}

// startWorker spawns the worker that is to serve.
func (m *machine) startWorker() {
	m.current = child{id: m.newID(), program: m.program, phase: starting}
	m.beatAt = m.now
	m.actions = append(m.actions, action{verb: spawnWorker, child: m.current.id, program: m.program})
}

func (m *machine) spawnFailed(w *child, why string) {
	if w == &m.next {
		m.upgradeFailed("cannot upgrade to %s: %s; the old worker stays", m.path, why)
		return
	}
	m.current = child{}
	m.failures++
	m.reason = why
	m.respawn = m.now.Add(pause(m.failures))
	m.log(logrus.ErrorLevel, "cannot spawn a worker: %s", why)
}

// advance has a prepared worker resume the guests when it is its turn, and the old one drain when the next is prepared.
func (m *machine) advance() {
	if m.current.phase == prepared && !m.loading {
		m.current.phase, m.beatAt = resuming, m.now
		m.do(resumeWorker, m.current)
	}
	if m.next.phase == prepared && m.upgrade == preparing && m.mode == running {
		m.handOver()
	}
}

// workerServes notes that the current worker serves the guests.
func (m *machine) workerServes() {
	m.current.phase = serving
	m.failures, m.outage, m.crashed = 0, time.Time{}, false
	m.do(notifyReady, child{})
	if !m.announced {
		m.announced = true
		m.do(announce, child{})
	}
	if m.upgrade == onTrial {
		m.upgradeServes()
	}
}

// workerLingers replaces a worker that is dead but for a thread in the kernel.
func (m *machine) workerLingers() {
	m.lingering = append(slices.Clone(m.lingering), m.current)
	m.log(logrus.WarnLevel, "the worker (process %d) is dead, but a thread of it waits in the kernel", m.current.pid)
	m.workerGone(m.current.outcome, m.current.exit)
}

func (m *machine) workerExited(w *child, e event) {
	if w == &m.current {
		m.workerGone(e.text, e.exit)
		return
	}
	if m.mode != running {
		m.closeProgram(w.program)
		m.next, m.upgrade = child{}, noUpgrade
		return
	}
	m.upgradeFailed("cannot upgrade to %s: its worker ended with %s before it was prepared; the old worker stays",
		m.path, e.text)
}

// workerGone replaces the current worker. All that it sent has been read.
func (m *machine) workerGone(outcome string, how exit) {
	w := m.current
	m.current = child{}
	if m.outage.IsZero() {
		m.outage = m.now
	}
	if m.mode != running {
		if m.mode == ending && how != exitedZero {
			m.log(logrus.ErrorLevel, "the worker (process %d) ended with %s while it removed the guests", w.pid, outcome)
		}
		return
	}
	if m.upgrade == handingOver {
		m.reason, m.crashed = "upgrade", false
		m.promote()
		return
	}
	m.reason, m.crashed = outcome, how != exitedKilled
	m.restarts++
	if w.phase < serving {
		m.failures++
		if m.upgrade == onTrial {
			m.rollBack()
		}
	}
	m.log(logrus.WarnLevel, "the worker (process %d) ended with %s; the holder spawns another", w.pid, outcome)
	// From the outage's begin on: where workers are killed faster than they start, a pause after each would leave none
	// to serve.
	m.respawn = m.outage.Add(pause(m.failures))
}

// pause returns how long after the outage began the next worker is spawned: at once, unless workers ended before they
// served.
func pause(failures int) time.Duration {
	return min(time.Duration(failures)*failurePause, maxPause)
}
