package holder

import (
	"testing"
	"time"
)

// upgrades brings a holder to where the worker of a new program is prepared.
func upgrades(t *testing.T) *script {
	t.Helper()
	x := serves(t)
	x.on(event{kind: upgradeWanted, text: "/new"}, "spawn worker 2 program 2: /new")
	x.spawned(2, "log info: the holder upgrades to /new", "notify reload")
	x.pass(time.Second)
	x.says(2, childPrepared, "drain worker 1")
	x.wantPhase(draining)
	return x
}

// TestUpgradeStep: the old worker drains when the new one is prepared, which serves when the old one has exited.
func TestUpgradeStep(t *testing.T) {
	x := upgrades(t)
	x.says(1, linkClosed) // as it exits
	x.says(1, lifelineBroke)
	x.exits(1, exitedZero, "resume worker 2")
	if x.s.reason != "upgrade" || x.s.restarts != 0 || x.s.upgrade != onTrial || x.s.crashed {
		t.Errorf("%+v", x.s)
	}
	x.says(2, childServes, "notify ready", "log info: the worker of /new serves (process 102)")
	x.exits(2, exitedKilled, "log warning", "spawn worker 3 program 2") // the program stays
	x.says(3, childPrepared, "resume worker 3")
	x.says(3, childServes, "notify ready")
	x.on(event{kind: upgradeWanted}, "spawn worker 4 program 4: /own")
	x.spawned(4, "log info", "notify reload")
	x.says(4, childPrepared, "drain worker 3")
	x.pass(drainWait, "kill 3")
	x.exits(3, exitedKilled, "resume worker 4")
	x.says(4, childServes, "notify ready", "log info: the worker of /own serves (process 104)", "close program 2")
}

// TestUpgradeRefused: an upgrade that cannot begin changes nothing, and whoever asked is told why.
func TestUpgradeRefused(t *testing.T) {
	refused := func(x *script, path, why string) {
		t.Helper()
		x.on(event{kind: upgradeWanted, text: path}, "log error: "+why, "notify ready", "report upgrade 1: "+why)
	}
	x := serves(t)
	refused(x, "relative", `cannot upgrade to "relative": give an absolute path`)
	x.on(event{kind: upgradeWanted, text: "/new"}, "spawn worker 2 program 2: /new")
	refused(x, "/other", "cannot upgrade: another upgrade is under way")
	stays := "cannot upgrade to /new: no such file; the old worker stays"
	x.on(event{kind: spawnFailed, child: 2, text: "no such file"},
		"close program 2", "log error: "+stays, "notify ready", "report upgrade 1: "+stays)
	x.wantPhase(serving)

	x = newScript(t)
	x.on(event{kind: began}, "spawn worker 1")
	refused(x, "/new", "cannot upgrade: a worker is only just starting; try again")
}

// TestUpgradeFails: a new worker that is not prepared in time, or exits before, leaves the old one; one that exits
// before it serves brings the old program back.
func TestUpgradeFails(t *testing.T) {
	stays := "cannot upgrade to /new: its worker ended with signal: killed before it was prepared; the old worker stays"
	x := serves(t)
	x.on(event{kind: upgradeWanted, text: "/new"}, "spawn worker 2 program 2: /new")
	x.spawned(2, "log info", "notify reload")
	x.pass(prepareWait, "kill 2")
	x.exits(2, exitedKilled, "close program 2", "log error: "+stays, "notify ready", "report upgrade 1: "+stays)
	x.wantPhase(serving)

	x = upgrades(t)
	x.exits(1, exitedZero, "resume worker 2")
	x.on(event{kind: upgradeWanted, text: "/third"},
		"log error: cannot upgrade: another upgrade is under way", "notify ready",
		"report upgrade 2: cannot upgrade: another upgrade is under way")
	x.exits(2, exitedByItself,
		"log error: the worker of /new ended with exit status 1 before it served", "close program 2", "log warning")
	x.hang(failurePause, "spawn worker 3") // of the program before

	x = upgrades(t) // the new one exits while the old one drains
	x.exits(2, exitedKilled, "close program 2", "log error: "+stays, "notify ready", "report upgrade 1: "+stays)
	x.exits(1, exitedZero, "log warning", "spawn worker 3")
}

// TestUpgradeMeanwhile: the old worker dies while the new one is prepared.
func TestUpgradeMeanwhile(t *testing.T) {
	x := serves(t)
	x.on(event{kind: upgradeWanted, text: "/new"}, "spawn worker 2 program 2: /new")
	x.spawned(2, "log info", "notify reload")
	x.exits(1, exitedByItself, "log warning", "spawn worker 3")
	x.exits(3, exitedByItself, "log warning") // it is no worker of the new program, which stays
	if x.s.upgrade != preparing {
		t.Errorf("the upgrade is in phase %d", x.s.upgrade)
	}
	x.says(2, childPrepared, "resume worker 2") // none is there to drain
	if !x.s.crashed || x.s.reason != "exit status 1" {
		t.Errorf("crashed %t, reason %q", x.s.crashed, x.s.reason)
	}
	x.says(2, childServes, "notify ready", "log info")
	x.pass(time.Second) // no other is spawned
}
