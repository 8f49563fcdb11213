package holder

import (
	"fmt"
	"time"

	"github.com/sirupsen/logrus"
)

// phase is how far a child, worker or answerer, has come. It only grows.
type phase uint8

const (
	absent    phase = iota // there is no child
	starting               // spawned; it maps the arena
	prepared               // a worker could resume the guests, and awaits the kept descriptors
	resuming               // it has the kept descriptors
	serving                // it serves
	draining               // it answers the requests that it has read, and exits: another one serves then
	stopping               // a worker removes all guests, and ends
	departing              // an answerer leaves the holder, and passes calls on alone
)

func (p phase) String() string {
	return [...]string{"absent", "starting", "prepared", "resuming", "serving", "draining", "stopping", "departing"}[p]
}

// mode is the purpose of the whole holder.
type mode uint8

const (
	running    mode = iota // it keeps a worker alive
	ending                 // SIGTERM or SIGINT came: the worker removes all guests
	abandoning             // it gave up: the killed workers are awaited
	leaving                // no worker is left, and the answerer departs
	ended
)

// upgradePhase is how far an upgrade has come.
type upgradePhase uint8

const (
	noUpgrade   upgradePhase = iota
	preparing                // supervisor.next starts, and the worker of the old program serves
	handingOver              // supervisor.next is prepared, and the old worker drains
	onTrial                  // the worker of the new program resumes; should it end first, the old program is back
)

// child is a process that the holder has spawned.
type child struct {
	id       int // never reused; 0: there is no child
	pid      int // 0 until it is spawned
	program  int // number of its program's file; 0: the holder's own program
	phase    phase
	deadline time.Time // at which it is killed; zero: never
	severed  time.Time // when its lifeline was severed: its first thread has ended; zero before
	outcome  string    // how that thread ended, from then on
	exit     exit      // the same
	heard    time.Time // when an answerer last said that it serves
	doubted  time.Time // when a look first found its sign of life late; zero while it is not
}

// supervisor is the whole state of the decisions. It holds no descriptor and no process, so that step is a
// function.
type supervisor struct {
	watchdog time.Duration // immutable; Config.Watchdog
	giveUp   time.Duration // immutable; Config.GiveUp
	own      string        // immutable; Config.Program

	mode     mode
	deadline time.Time // of abandoning and leaving
	failure  string    // why the holder gave up; "" while it has not

	current   child        // the worker that serves or is to
	next      child        // the worker that an upgrade prepares
	upgrade   upgradePhase //
	path      string       // of the upgrade's program
	program   int          // number of the file that workers are spawned from
	previous  int          // the same before the upgrade that is on trial
	lastID    int          // newest id of a child, and newest number of a program
	restarts  uint64       // workers that died
	failures  int          // workers in a row that ended before they served
	respawn   time.Time    // when the next worker is spawned, while there is none
	outage    time.Time    // since when no worker serves; zero while one does
	reason    string       // why the last worker ended; "" for the first worker
	crashed   bool         // the last worker failed by itself
	lingering []child      // workers that are dead but for threads in the kernel
	loading   bool         // the kernel loads the programs that answer statfs; no worker resumes before
	announced bool         // guests were served once
	heartbeat uint64       // of the arena, as it was at beatAt
	beatAt    time.Time    // when the heartbeat last changed
	looked    time.Time    // the last look

	answerer         child
	wanted           bool      // a runtime has connected, or listeners are kept
	departed         bool      // an answerer goes on without the holder
	answererFailures int       // answerers in a row that ended before they served
	answererRespawn  time.Time // when the next one is spawned, while there is none
}

// reading holds the values that the holder reads before each step.
type reading struct {
	now       time.Time
	heartbeat uint64
	beatAt    time.Time // when the worker says that it made the last heartbeat
	listeners int       // that are kept
}

// eventKind names an event.
type eventKind string

const (
	began          eventKind = "the holder began"
	timePassed     eventKind = "time passed"
	childSpawned   eventKind = "a child was spawned"           // pid
	spawnFailed    eventKind = "a child could not be spawned"  // text: why
	childPrepared  eventKind = "a child said that it prepared" // it awaits the kept descriptors
	childServes    eventKind = "a child said that it serves"   // an answerer says so again and again
	linkClosed     eventKind = "a child closed its link"       // all that it sent was read
	lifelineBroke  eventKind = "a child's first thread ended"  // text and exit say how
	childExited    eventKind = "a child exited"                // it closed its link before; text and exit say how
	upgradeWanted  eventKind = "an upgrade is wanted"
	stopWanted     eventKind = "a signal ends the holder" // text: its name
	programsLoaded eventKind = "loading of programs ended"
	runtimeCame    eventKind = "a runtime connected"
	answererLeft   eventKind = "an answerer said that it left"
)

// exit is how a process ended.
type exit uint8

const (
	exitedZero exit = iota
	exitedByItself
	exitedKilled // by a signal that another process sends: SIGKILL, SIGTERM, SIGINT
)

// event is one thing that happened.
type event struct {
	kind  eventKind
	child int // id; 0: no child's
	pid   int
	exit  exit
	text  string
}

// verb names an action.
type verb string

const (
	spawnWorker     verb = "spawn worker"     // child, program; text: the path of a program that is not open yet
	resumeWorker    verb = "resume worker"    // child: send the kept descriptors and a Start
	drainWorker     verb = "drain worker"     // child
	stopWorker      verb = "stop worker"      // child
	killChild       verb = "kill"             // child
	reportUpgrade   verb = "report upgrade"   // child, a worker; text: why it stays
	closeProgram    verb = "close"            // program
	notifyReady     verb = "notify ready"     // the service manager
	notifyReload    verb = "notify reload"    //
	notifyStop      verb = "notify stop"      //
	notifyAlive     verb = "notify alive"     //
	announce        verb = "announce"         // call the announce of Run: guests are served
	logText         verb = "log"              // level, text
	spawnAnswerer   verb = "spawn answerer"   // child, program
	resumeAnswerer  verb = "resume answerer"  // child: send the listeners that are kept and the settings
	drainAnswerer   verb = "drain answerer"   // child
	dismissAnswerer verb = "dismiss answerer" // child: it is to leave the holder
	endViews        verb = "end views"        // no process serves them any more
	forgetArena     verb = "forget arena"     // the service manager keeps it no longer
)

// action is one thing to do.
type action struct {
	verb    verb
	child   int
	program int
	level   logrus.Level
	text    string
}

func (a action) String() string {
	s := string(a.verb)
	if a.child != 0 {
		s += fmt.Sprintf(" %d", a.child)
	}
	if a.program != 0 {
		s += fmt.Sprintf(" program %d", a.program)
	}
	if a.verb == logText {
		s += " " + a.level.String()
	}
	if a.text != "" {
		s += ": " + a.text
	}
	return s
}
