package holder

import (
	"fmt"
	"time"

	"github.com/sirupsen/logrus"
)

// machine is one step: a copy of the state, which it changes, and the actions that it collects.
type machine struct {
	supervisor
	now       time.Time
	listeners int
	actions   []action
}

// step decides: it returns the state after an event, and the actions, in order. It has no effect itself.
func step(s supervisor, r reading, e event) (supervisor, []action) {
	m := machine{supervisor: s, now: r.now, listeners: r.listeners}
	m.hear(r)
	m.looked = r.now
	m.handle(e)
	m.expire()
	return m.supervisor, m.actions
}

// hear notes a heartbeat that is new since the last look. While nothing is expected of the worker it is as good as one.
func (m *machine) hear(r reading) {
	at := r.beatAt
	switch {
	case m.loading:
		at = r.now
	case r.heartbeat == m.heartbeat:
		return
	case at.After(r.now):
		at = r.now
	case at.Before(m.looked):
		// A pause of the machine came between, or the worker is of an earlier version.
		at = m.looked
	}
	m.heartbeat = r.heartbeat
	if at.After(m.beatAt) {
		m.beatAt = at
	}
}

func (m *machine) handle(e event) {
	switch e.kind {
	case began:
		if m.outage.IsZero() {
			m.outage = m.now
		}
		m.wanted = m.listeners > 0
	case timePassed:
		m.checkWatchdog()
	case programsLoaded:
		m.loading, m.beatAt = false, m.now
		m.advance()
	case upgradeWanted:
		m.beginUpgrade(e.text)
	case stopWanted:
		m.stop(e.text)
	case runtimeCame:
		m.wanted = true
	case answererLeft:
		m.departed = true
	default:
		if e.child == m.answerer.id {
			m.handleAnswerer(e)
		} else {
			m.handleWorker(e)
		}
	}
}

// expire applies every deadline that has come.
func (m *machine) expire() {
	for _, c := range []*child{&m.current, &m.next, &m.answerer} {
		if passed(c.deadline, m.now) {
			c.deadline = time.Time{}
			m.kill(*c)
		}
	}
	if severed := m.current.severed; !severed.IsZero() && passed(severed.Add(lingerWait), m.now) {
		m.workerLingers()
	}
	if severed := m.answerer.severed; !severed.IsZero() && passed(severed.Add(lingerWait), m.now) {
		m.answererGone()
	}
	if m.mode == running && passed(m.givesUpAt(), m.now) {
		m.abandon()
	}
	alone := m.current.phase == absent && m.next.phase == absent
	switch {
	case m.mode == running && m.current.phase == absent && !m.respawn.After(m.now):
		m.startWorker()
	case m.mode == ending && alone, m.mode == abandoning && (alone || passed(m.supervisor.deadline, m.now)):
		m.leave()
	}
	if m.mode == leaving && m.departed {
		m.finish()
	}
	if m.mode == leaving && passed(m.supervisor.deadline, m.now) {
		m.log(logrus.ErrorLevel, "the answerer (process %d) does not say that it goes on alone", m.answerer.pid)
		m.departed = true
		m.finish()
	}
	if m.answererIsDue() && !m.answererRespawn.After(m.now) {
		m.startAnswerer()
	}
}

// due returns when expire has something to do next, if nothing else happens; zero for never.
func (s *supervisor) due() (next time.Time) {
	times := []time.Time{s.current.deadline, s.next.deadline, s.answerer.deadline}
	for _, c := range []child{s.current, s.answerer} {
		if !c.severed.IsZero() {
			times = append(times, c.severed.Add(lingerWait))
		}
	}
	switch s.mode {
	case running:
		times = append(times, s.givesUpAt())
		if s.current.phase == absent {
			times = append(times, s.respawn)
		}
	case abandoning, leaving:
		times = append(times, s.deadline)
	}
	if s.answererIsDue() {
		times = append(times, s.answererRespawn)
	}
	for _, t := range times {
		if !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	return next
}

// A child is doubted when its last sign of life is three quarters of its bound old. The holder looks at it once a tick
// then, and kills it a tick after the first doubt at the earliest: the machine may have run neither of them for a
// while, and the child has time for its sign.
const (
	doubtAfter = 6 // ticks
	boundTicks = 8
)

// looks returns when the holder is to look next. While a worker serves and nothing else is under way, that is when its
// sign of life would be late; so an idle daemon does not wake the holder each tick.
func (s *supervisor) looks(tick time.Duration) time.Time {
	next := s.looked.Add(tick)
	due := s.due()
	steady := s.mode == running && s.current.phase == serving && s.next.phase == absent && due.IsZero() &&
		(s.answerer.phase == absent || s.answerer.phase == serving)
	if steady {
		if next = s.current.looks(s.beatAt, s.watchdog, next); s.answerer.phase == serving {
			if a := s.answerer.looks(s.answerer.heard, s.silence(), next); a.Before(next) {
				next = a
			}
		}
	}
	if !due.IsZero() && due.Before(next) {
		return due
	}
	return next
}

// looks returns when the holder is to look next at a child whose last sign of life is given, with its bound: at tick if
// the child is doubted.
func (c *child) looks(last time.Time, bound time.Duration, tick time.Time) time.Time {
	if doubt := last.Add(bound * doubtAfter / boundTicks); c.doubted.IsZero() && doubt.After(tick) {
		return doubt
	}
	return tick
}

// givesUpAt returns when guests have waited long enough for a worker; zero while one serves.
func (s *supervisor) givesUpAt() time.Time {
	if s.outage.IsZero() {
		return time.Time{}
	}
	return s.outage.Add(s.giveUp)
}

// passed reports that a time is set and has come.
func passed(t, now time.Time) bool { return !t.IsZero() && !t.After(now) }

func (m *machine) do(v verb, c child) {
	m.actions = append(m.actions, action{verb: v, child: c.id})
}

func (m *machine) kill(c child) {
	if c.id != 0 {
		m.do(killChild, c)
	}
}

func (m *machine) log(level logrus.Level, format string, args ...any) {
	m.actions = append(m.actions, action{verb: logText, level: level, text: fmt.Sprintf(format, args...)})
}

// closeProgram closes the file of a program that no worker is spawned from any more. The holder's own has none.
func (m *machine) closeProgram(program int) {
	if program != 0 {
		m.actions = append(m.actions, action{verb: closeProgram, program: program})
	}
}

func (m *machine) newID() int {
	m.lastID++
	return m.lastID
}

// overdue reports that a child is to be killed: its last sign of life is older than the bound, and it was doubted for a
// tick at least.
func (m *machine) overdue(c *child, last time.Time, bound time.Duration) bool {
	switch age := m.now.Sub(last); {
	case age < bound*doubtAfter/boundTicks:
		c.doubted = time.Time{}
	case c.doubted.IsZero():
		c.doubted = m.now
	default:
		return age >= bound && m.now.Sub(c.doubted) >= bound/boundTicks
	}
	return false
}

// checkWatchdog kills a worker whose heartbeat stopped. One that has not begun to beat has as long for that: another
// one may do better before guests have waited for too long.
func (m *machine) checkWatchdog() {
	m.checkAnswerer()
	if m.current.phase == absent || m.mode != running || !m.overdue(&m.current, m.beatAt, m.watchdog) {
		m.do(notifyAlive, child{})
		return
	}
	m.log(logrus.ErrorLevel, "the worker (process %d) has not beaten for %v: the holder kills it",
		m.current.pid, m.watchdog)
	m.beatAt = m.now
	m.kill(m.current)
}

// stop has the worker remove all guests.
func (m *machine) stop(signal string) {
	if m.mode != running {
		return
	}
	m.mode = ending
	m.log(logrus.InfoLevel, "%s: the worker removes all guests", signal)
	m.do(notifyStop, child{})
	m.kill(m.next)
	if m.current.phase == absent {
		return
	}
	m.current.phase, m.current.deadline = stopping, m.now.Add(stopWait)
	m.do(stopWorker, m.current)
}

// abandon kills all workers: guests have waited too long for one.
func (m *machine) abandon() {
	m.mode, m.supervisor.deadline = abandoning, m.now.Add(abandonWait)
	why := "the last one ended with " + m.reason
	if m.reason == "" {
		why = fmt.Sprintf("the first one was not ready after %v", m.giveUp)
	}
	m.failure = fmt.Sprintf("cannot keep a worker alive: %s; the guests' connections are ended", why)
	m.kill(m.current)
	m.kill(m.next)
}

// leave has the answerer go on alone when no worker is left: it passes calls on to the kernel until the last container
// with a listener has ended.
func (m *machine) leave() {
	m.mode, m.supervisor.deadline = leaving, m.now.Add(leaveWait)
	switch m.answerer.phase {
	case absent:
		m.answererFailures = 0
		if m.listeners == 0 {
			m.finish()
			return
		}
		m.startAnswerer()
	case serving:
		m.dismissAnswerer()
	} // else: when it serves, or has drained
}

// finish ends the views that no worker removed, and the holder.
func (m *machine) finish() {
	if !m.departed && m.listeners > 0 {
		m.log(logrus.ErrorLevel, "no answerer passes guests' system calls on: those that a seccomp profile stops for this "+
			"daemon fail with ENOSYS")
	}
	m.mode = ended
	m.do(endViews, child{})
	if m.failure != "" {
		m.do(forgetArena, child{})
	}
}
