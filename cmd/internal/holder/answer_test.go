package holder

import (
	"testing"
	"time"
)

// answers brings a holder to where an answerer serves.
func answers(t *testing.T) *script {
	t.Helper()
	x := serves(t)
	x.on(event{kind: runtimeCame}, "spawn answerer 2")
	x.spawned(2)
	x.says(2, childPrepared, "resume answerer 2")
	x.says(2, childServes)
	x.listeners = 1
	return x
}

// TestAnswerer: it is spawned when a runtime connects, or at once where listeners are kept, and replaced when it dies
// or says nothing.
func TestAnswerer(t *testing.T) {
	x := answers(t)
	x.pass(4 * time.Second)
	x.says(2, childServes)
	x.pass(4 * time.Second)
	x.pass(time.Second, "log error: the answerer (process 102) has not beaten for 5s", "kill 2")
	x.exits(2, exitedKilled, "log warning: the answerer (process 102) has ended", "spawn answerer 3")
	x.spawned(3)
	x.says(3, lifelineBroke)
	x.pass(lingerWait, "log warning: the answerer (process 103) has ended")
	x.exits(3, exitedKilled) // at last
	if due := x.s.due().Sub(x.at); due != answererPause {
		t.Errorf("the next one is due in %v", due)
	}
	x.pass(answererPause, "spawn answerer 4")

	x = newScript(t)
	x.listeners = 2
	x.on(event{kind: began}, "spawn worker 1", "spawn answerer 2")
}

// TestAnswererProgram: it is of the program that the worker has, unless that does not serve.
func TestAnswererProgram(t *testing.T) {
	x := answers(t)
	x.on(event{kind: upgradeWanted, text: "/new"}, "spawn worker 3 program 3: /new")
	x.says(3, childPrepared, "drain worker 1")
	x.exits(1, exitedZero, "resume worker 3")
	x.says(3, childServes, "notify ready", "log info", "drain answerer 2")
	x.pass(drainWait - time.Second)
	x.says(2, childServes) // still
	x.pass(time.Second, "kill 2")
	x.exits(2, exitedKilled, "log info: the answerer (process 102) has ended", "spawn answerer 4 program 3")
	x.exits(4, exitedByItself, "log warning")
	x.pass(answererPause, "spawn answerer 5 program 3")
	x.on(event{kind: spawnFailed, child: 5, text: "no memory"}, "log error: cannot spawn the answerer: no memory")
	x.pass(2*answererPause, "spawn answerer 6")
}

// TestAnswererLeaves: when the holder ends the answerer goes on alone, whatever it was doing.
func TestAnswererLeaves(t *testing.T) {
	stop := event{kind: stopWanted, text: "terminated"}
	stopped := func(x *script, want ...string) {
		t.Helper()
		x.on(stop, "log info", "notify stop", "stop worker 1")
		x.exits(1, exitedZero, want...)
	}
	x := answers(t)
	stopped(x, "dismiss answerer 2")
	x.on(event{kind: answererLeft}, "end views")

	x = answers(t) // it does not say so
	stopped(x, "dismiss answerer 2")
	x.pass(leaveWait, "log error: the answerer (process 102) does not say that it goes on alone", "end views")

	x = answers(t) // it dies
	stopped(x, "dismiss answerer 2")
	x.exits(2, exitedKilled, "log info", "log error: no answerer passes guests' system calls on", "end views")

	x = answers(t) // it drains: another one is to leave
	x.s.answerer.phase = draining
	stopped(x)
	x.exits(2, exitedZero, "log info", "spawn answerer 3")
	x.says(3, childPrepared, "resume answerer 3")
	x.says(3, childServes, "dismiss answerer 3")
	x.on(event{kind: answererLeft}, "end views")

	x = answers(t) // it died shortly before
	x.on(stop, "log info", "notify stop", "stop worker 1")
	x.exits(2, exitedKilled, "log warning")
	x.exits(1, exitedZero, "spawn answerer 3")

	x = answers(t) // no container is left
	x.listeners = 0
	stopped(x, "dismiss answerer 2")
	x.on(event{kind: answererLeft}, "end views")
}
