package holder

import (
	"time"

	"github.com/sirupsen/logrus"
)

// The answerer is a child that answers system calls of guests (package listener). It is no part of the worker: it opens
// paths in views, and a thread that waits for the answer of its own process would keep that process from exiting. The
// holder spawns it when the first runtime connects, and replaces it when it dies. When the holder ends the answerer
// goes on alone: containers live on, and the kernel would fail their calls with ENOSYS if no process had their
// listeners.

const (
	answererPause = 100 * time.Millisecond // before the next is spawned, for each in a row that ended before it served
	leaveWait     = 5 * time.Second        // for it to say that it goes on alone
	answererBeat  = time.Second            // between two times that it says that it serves
	maxTries      = 2                      // of the worker's program in a row, before one of the holder's own
)

func (m *machine) handleAnswerer(e event) {
	a := &m.answerer
	switch e.kind {
	case childSpawned:
		a.pid = e.pid
	case spawnFailed:
		m.log(logrus.ErrorLevel, "cannot spawn the answerer: %s", e.text)
		m.replaceAnswerer()
	case childPrepared:
		if a.phase == starting {
			a.phase = resuming
			m.do(resumeAnswerer, *a)
		}
	case childServes:
		a.heard, m.answererFailures = m.now, 0
		if a.phase < serving {
			a.phase = serving
			if m.mode == leaving {
				m.dismissAnswerer()
			}
		}
	case lifelineBroke:
		a.severed = m.now
	case childExited:
		m.answererGone()
	}
}

// answererIsDue reports that an answerer is to be spawned at answererRespawn.
func (s *supervisor) answererIsDue() bool {
	return s.wanted && !s.departed && s.answerer.phase == absent && (s.mode == running || s.mode == abandoning)
}

// startAnswerer spawns an answerer of the program that the worker has; when that did not serve, one of the holder's
// own.
func (m *machine) startAnswerer() {
	program := m.program
	if m.answererFailures >= maxTries {
		program = 0
	}
	m.answerer = child{id: m.newID(), program: program, phase: starting}
	m.actions = append(m.actions, action{verb: spawnAnswerer, child: m.answerer.id, program: program})
}

// answererGone replaces an answerer that has exited, or is dead but for a thread in the kernel: a guest's file system
// may keep one for ever.
func (m *machine) answererGone() {
	level := logrus.WarnLevel
	if m.answerer.phase >= draining {
		level = logrus.InfoLevel
	}
	m.log(level, "the answerer (process %d) has ended", m.answerer.pid)
	m.replaceAnswerer()
}

func (m *machine) replaceAnswerer() {
	last := m.answerer
	m.answerer = child{}
	if last.phase < serving {
		m.answererFailures++
	}
	m.answererRespawn = m.now.Add(min(time.Duration(m.answererFailures)*answererPause, maxPause))
	if m.mode != leaving {
		return
	}
	if last.phase == draining && m.listeners > 0 {
		m.startAnswerer()
		return
	}
	m.finish()
}

// silence is how long an answerer may not say that it serves.
func (s *supervisor) silence() time.Duration { return max(s.watchdog, 2*answererBeat) }

// checkAnswerer kills an answerer that has not said for long that it serves.
func (m *machine) checkAnswerer() {
	a := &m.answerer
	if m.mode >= leaving || a.phase < serving || !m.overdue(a, a.heard, m.silence()) {
		return
	}
	m.log(logrus.ErrorLevel, "the answerer (process %d) has not beaten for %v: the holder kills it", a.pid, m.silence())
	a.heard = m.now
	m.kill(*a)
}

// renewAnswerer drains the answerer: the next one runs the worker's program, and answers the calls that this one
// leaves.
func (m *machine) renewAnswerer() {
	if m.answerer.phase == absent || m.answerer.phase >= draining {
		return
	}
	m.answerer.phase, m.answerer.deadline = draining, m.now.Add(drainWait)
	m.do(drainAnswerer, m.answerer)
}

// dismissAnswerer has the answerer leave the holder. It has left the holder's cgroup when it says so, so that no
// service manager ends it with the holder.
func (m *machine) dismissAnswerer() {
	m.answerer.phase = departing
	m.do(dismissAnswerer, m.answerer)
}
