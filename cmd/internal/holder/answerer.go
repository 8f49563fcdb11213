package holder

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/fs/state"
)

// The answerer is a child that answers system calls of guests (package listener). It is no part of the worker: it
// looks at views, and a thread that waits for the answer of its own process would keep that process from ending. It
// is started when the first runtime connects, replaced when it dies, and goes on alone when the holder ends:
// containers live on, and the kernel would fail their calls with ENOSYS if nobody had their listeners.

// AnswererCommand is the argument that makes this program an answerer. It is not for users.
const AnswererCommand = "serve-notify"

// Descriptors that an answerer is given.
const (
	answererLink = 3 + iota
	answererArena
	answererCalls
	answererOCI
	answererLXC
)

// answerer is the process as the holder has it.
type answerer struct {
	cmd      *exec.Cmd
	link     *link
	own      bool // it is of the holder's own program
	ready    bool
	ended    bool        // the process
	draining bool        // it is to end
	quiet    bool        // the link is closed, and everything sent over it was read
	heard    time.Time   // when it last said that it serves
	over     atomic.Bool // nobody waits for its death any more
}

const (
	answererPause = 100 * time.Millisecond // before another is started, for each in a row that did not serve
	leaveWait     = 5 * time.Second        // for it to say that it goes on alone
	answererBeat  = time.Second            // between two times that it says that it serves
)

// awaitRuntime starts the answerer when a runtime connects, or at once where listeners are kept already.
func (h *Holder) awaitRuntime() {
	if h.notify.oci == nil || h.notify.lxc == nil {
		return
	}
	if len(h.kept[ListenersRegion]) > 0 {
		h.startAnswerer()
		return
	}
	var fds []unix.PollFd
	for _, f := range []*os.File{h.notify.oci, h.notify.lxc} {
		fds = append(fds, unix.PollFd{Fd: int32(f.Fd()), Events: unix.POLLIN})
	}
	go func() {
		for {
			if n, err := unix.Poll(fds, -1); n > 0 || err != nil && err != unix.EINTR {
				break
			}
		}
		h.events <- event{do: h.startAnswerer}
	}()
}

// startAnswerer starts one, unless there is one. It prefers the program that the worker has, and goes back to the
// holder's own when that one does not serve.
func (h *Holder) startAnswerer() {
	if h.answerer != nil || h.left {
		return
	}
	a, err := h.spawnAnswerer(h.program != nil && h.answererDeaths < 2)
	if err != nil {
		h.log.WithError(err).Error("cannot start the process that answers guests' system calls")
		h.answererGone(nil)
		return
	}
	h.answerer = a
}

func (h *Holder) spawnAnswerer(upgraded bool) (*answerer, error) {
	mine, theirs, err := newLinks()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	a := &answerer{link: mine, own: !upgraded}
	path := self
	if upgraded {
		path = "/proc/self/fd/" + strconv.Itoa(int(h.program.Fd()))
	}
	a.cmd = exec.Command(path, AnswererCommand)
	a.cmd.Args[0] = "vcgroupfs"
	a.cmd.Stderr = os.Stderr
	a.cmd.ExtraFiles = []*os.File{theirs, h.arena.File(), h.calls.File(), h.notify.oci, h.notify.lxc}
	a.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a terminal's ^C is for the holder
	h.calls.Life().Renew()
	if err := a.cmd.Start(); err != nil {
		mine.close()
		return nil, err
	}
	go h.listenToAnswerer(a)
	go func() {
		_ = a.cmd.Wait()
		a.over.Store(true)
		h.events <- event{do: func() { a.ended = true; h.answererEnded(a) }}
	}()
	go func() {
		if h.calls.Life().Severed(a.over.Load) { // a guest's file system may keep a thread of it for ever
			time.Sleep(lingerWait)
			h.events <- event{do: func() { h.answererGone(a) }}
		}
	}()
	return a, nil
}

func (h *Holder) listenToAnswerer(a *answerer) {
	buf, oob := room()
	for {
		m, err := a.link.receive(buf, oob)
		if err != nil {
			h.events <- event{do: func() { a.quiet = true; h.answererEnded(a) }}
			return
		}
		h.events <- event{do: func() { h.answererSaid(a, m) }}
	}
}

func (h *Holder) answererSaid(a *answerer, m message) {
	switch m.kind {
	case msgPrepared:
		if err := h.beginAnswerer(a); err != nil {
			h.log.WithError(err).Error("cannot give the answerer what is kept")
			a.cmd.Process.Kill()
		}
	case msgReady:
		a.ready, a.heard, h.answererDeaths = true, time.Now(), 0
	case msgHold:
		for i, fd := range m.fds {
			h.keepListener(m.items[i].key, fd, string(m.text))
			if b := h.answerer; b != nil && b != a && b.ready { // said by one that was thought dead
				_ = b.link.sendListener(Listener{m.items[i].key, fd, string(m.text)})
			}
		}
	case msgDrop:
		for _, i := range m.items {
			h.dropListener(i.key)
		}
	case msgLeft:
		h.left = true
	default:
		closeAll(m.fds)
	}
}

func (h *Holder) beginAnswerer(a *answerer) error {
	if err := h.sendListeners(a.link); err != nil {
		return err
	}
	return a.link.send(message{kind: msgStart, text: h.config.Settings})
}

// answererEnded has another one started when all that this one said was heard.
func (h *Holder) answererEnded(a *answerer) {
	if a.ended && a.quiet {
		a.link.close()
		h.answererGone(a)
	}
}

// lookAtAnswerer kills an answerer that shows no life.
func (h *Holder) lookAtAnswerer() {
	a := h.answerer
	if a == nil || !a.ready || time.Since(a.heard) < max(h.config.Watchdog, 2*answererBeat) {
		return
	}
	h.log.Errorf("the process that answers guests' system calls (%d) has shown no life: it is killed", a.cmd.Process.Pid)
	a.heard = time.Now()
	a.cmd.Process.Kill()
}

// answererGone is told that an answerer has ended, or but for threads that wait in the kernel; or that none could be
// started (nil).
func (h *Holder) answererGone(a *answerer) {
	if a != h.answerer {
		return
	}
	h.answerer = nil
	if a != nil && !a.ready || a == nil {
		h.answererDeaths++
	}
	if a != nil {
		say := h.log.Warnf
		if a.draining {
			say = h.log.Infof
		}
		say("the process that answers guests' system calls (%d) has ended; another one goes on", a.cmd.Process.Pid)
	}
	if h.stopping {
		return
	}
	if h.answererDeaths == 0 {
		h.startAnswerer()
		return
	}
	wait := min(time.Duration(h.answererDeaths)*answererPause, time.Second)
	time.AfterFunc(wait, func() { h.events <- event{do: h.startAnswerer} })
}

// renewAnswerer replaces the answerer by one of the program that the worker has now. It ends when it has answered
// what it received.
func (h *Holder) renewAnswerer() {
	a := h.answerer
	if a == nil || a.draining {
		return
	}
	a.draining = true
	if a.link.send(message{kind: msgDrain}) != nil {
		a.cmd.Process.Kill()
	}
	time.AfterFunc(drainWait, func() { a.cmd.Process.Kill() }) // what it has not answered by then the next one answers
}

// leaveAnswerer lets the answerer go on without us: it passes calls on to the kernel until the last container with a
// listener has ended. It has left our control group when this returns, so that whoever ends us does not end it.
func (h *Holder) leaveAnswerer() {
	if h.answerer == nil && len(h.kept[ListenersRegion]) > 0 {
		h.answererDeaths = 0
		h.startAnswerer()
	}
	a := h.answerer
	if a == nil {
		return
	}
	late := time.After(leaveWait)
	for told := false; h.answerer == a && !h.left; {
		if !told && a.ready {
			told = true
			if a.link.send(message{kind: msgStop}) != nil {
				break
			}
		}
		select {
		case e := <-h.events:
			h.absorb(e)
		case <-late:
			h.log.Errorf("the process that answers guests' system calls (%d) does not say that it goes on alone", a.cmd.Process.Pid)
			h.left = true
		}
	}
	if !h.left && len(h.kept[ListenersRegion]) > 0 {
		h.log.Error("cannot pass guests' system calls on: those that a seccomp profile stops for this daemon fail with ENOSYS")
	}
	h.dropListeners()
}

// Answerer is an answerer's end of the link. Its methods may be called from any goroutine.
type Answerer struct {
	Arena    *state.Arena
	Calls    *state.Calls
	OCI, LXC *os.File        // listening
	Settings json.RawMessage // Config.Settings

	link *link
}

// ConnectAnswerer takes over what the holder gives an answerer: the listeners that are kept are the caller's.
func ConnectAnswerer() (*Answerer, []Listener, error) {
	l, err := openLink(os.NewFile(answererLink, "link"))
	if err != nil {
		return nil, nil, fmt.Errorf("cannot reach the holder: %w; %s is for vcgroupfs serve alone", err, AnswererCommand)
	}
	for fd := answererArena; fd <= answererLXC; fd++ {
		unix.CloseOnExec(fd)
	}
	a := &Answerer{link: l, OCI: os.NewFile(answererOCI, "notify"), LXC: os.NewFile(answererLXC, "notify"+LXCSuffix)}
	if a.Arena, err = state.Map(os.NewFile(answererArena, "arena")); err != nil {
		return nil, nil, err
	}
	if a.Calls, err = state.MapCalls(os.NewFile(answererCalls, "calls")); err != nil {
		return nil, nil, err
	}
	if err := l.send(message{kind: msgPrepared}); err != nil {
		return nil, nil, err
	}
	var kept []Listener
	buf, oob := room()
	for {
		m, err := l.receive(buf, oob)
		if err != nil {
			return nil, nil, err
		}
		switch m.kind {
		case msgHold:
			for i, fd := range m.fds {
				kept = append(kept, Listener{m.items[i].key, fd, string(m.text)})
			}
		case msgStart:
			a.Settings = m.text
			return a, kept, nil
		}
	}
}

// Serves says that this answerer serves, now and again and again until the holder has ended.
func (a *Answerer) Serves() {
	for a.link.send(message{kind: msgReady}) == nil {
		time.Sleep(answererBeat)
	}
}

// Hold has a descriptor kept, instead of what was kept under its key. The holder has its own when it answers.
func (a *Answerer) Hold(x Listener) error { return a.link.sendListener(x) }

// Drop ends what is kept under a key. A holder that is gone keeps nothing.
func (a *Answerer) Drop(key uint64) {
	_ = a.link.send(message{kind: msgDrop, items: []item{{ListenersRegion, key}}})
}

// Left says that this process goes on without the holder.
func (a *Answerer) Left() error { return a.link.send(message{kind: msgLeft}) }

// Follow has the holder's requests answered: drain when another answerer is to go on, leave when the holder ends. It
// returns when the link ends: the holder has died.
func (a *Answerer) Follow(drain, leave func()) error {
	buf, oob := room()
	for {
		m, err := a.link.receive(buf, oob)
		if err != nil {
			return err
		}
		switch m.kind {
		case msgDrain:
			go drain()
		case msgStop:
			go leave()
		}
	}
}
