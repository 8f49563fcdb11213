package holder

import (
	"slices"
	"testing"
	"time"
)

// FuzzStep plays any events in any order, from a correct worker or not. Whatever comes: one worker at a time resumes
// the guests, the old one having exited or lingering; nothing is due in the past; a program that was closed is not
// spawned; the end is final, and is reached once no process is left.
func FuzzStep(f *testing.F) {
	f.Add([]byte{0, 0, 1, 2, 1, 3, 1, 1})
	f.Add([]byte{0, 0, 1, 3, 1, 4, 0, 10, 2, 3, 1, 7, 1, 4, 2, 9})
	f.Fuzz(func(t *testing.T, b []byte) {
		kinds := []eventKind{
			childSpawned, spawnFailed, timePassed, childPrepared, childServes, linkClosed, lifelineBroke, childExited,
			programsLoaded, stopWanted, upgradeWanted, runtimeCame, answererLeft,
		}
		s := supervisor{watchdog: time.Second, giveUp: 10 * time.Second, own: "/own", loading: len(b)%2 == 1}
		now := time.Unix(1e9, 0)
		var closed []int
		play := func(e event) {
			if s.mode == ended {
				return
			}
			before := s.current
			var actions []action
			s, actions = step(s, reading{now: now, listeners: len(b) % 3}, e)
			for _, a := range actions {
				switch {
				case a.verb == closeProgram:
					closed = append(closed, a.program)
				case (a.verb == spawnWorker || a.verb == spawnAnswerer) && slices.Contains(closed, a.program):
					t.Fatalf("program %d is closed", a.program)
				case a.verb == resumeWorker && before.id != a.child && before.id != e.child && before.phase >= resuming &&
					!slices.ContainsFunc(s.lingering, func(c child) bool { return c.id == before.id }):
					t.Fatalf("worker %d resumes while %d is %s", a.child, before.id, before.phase)
				}
			}
			if looks := s.looks(time.Second / 8); s.mode != ended && !looks.After(now) {
				t.Fatalf("after %s a look is due at %v, it is %v: %+v", e.kind, looks, now, s)
			}
			if due := s.due(); s.mode != ended && !due.IsZero() && !due.After(now) {
				t.Fatalf("after %s something is due at %v, it is %v: %+v", e.kind, due, now, s)
			}
		}
		play(event{kind: began})
		for ; len(b) >= 2; b = b[2:] {
			e := event{kind: kinds[int(b[0])%len(kinds)], child: int(b[1]) % (s.lastID + 2), exit: exit(b[1] % 3)}
			now = now.Add(time.Duration(b[0]) * time.Millisecond)
			play(e)
		}
		play(event{kind: stopWanted})
		for id := 1; id <= s.lastID && id < 1000; id++ {
			play(event{kind: childExited, child: id})
		}
		now = now.Add(time.Minute)
		play(event{kind: timePassed})
		for range 3 {
			now = now.Add(leaveWait)
			play(event{kind: timePassed})
		}
		if s.mode != ended {
			t.Fatalf("it does not end: %+v", s)
		}
	})
}
