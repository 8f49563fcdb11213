package holder

import (
	"encoding/json"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/fs/state"
)

// AnswererCommand is the argument that makes this program an answerer. It is not for users.
const AnswererCommand = "serve-notify"

// Descriptors that an answerer inherits.
const (
	answererLink = 3 + iota
	answererArena
	answererCalls
	answererOCI
	answererLXC
)

// Answerer is an answerer's end of the link. Its methods may be called from any goroutine.
type Answerer struct {
	Arena    *state.Arena
	Calls    *state.Calls
	OCI, LXC *os.File        // listening
	Settings json.RawMessage // Config.Settings

	link *link
}

// ConnectAnswerer opens what an answerer inherits from the holder, and waits until it is to serve: with the listeners
// that are kept, which the caller owns then.
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
	kept, err := a.prepare()
	return a, kept, err
}

// prepare says that this program can resume, and waits until it is to.
func (a *Answerer) prepare() (kept []Listener, err error) {
	if err := a.link.send(message{kind: msgPrepared}); err != nil {
		return nil, err
	}
	buf, oob := receiveBuffers()
	for {
		m, err := a.link.receive(buf, oob)
		if err != nil {
			return nil, err
		}
		switch m.kind {
		case msgHold:
			for i, fd := range m.fds {
				kept = append(kept, Listener{m.items[i].key, fd, string(m.text)})
			}
		case msgStart:
			a.Settings = m.text
			return kept, nil
		}
	}
}

// Serves says that this answerer serves, again and again until the holder has ended.
func (a *Answerer) Serves() {
	for a.link.send(message{kind: msgReady}) == nil {
		time.Sleep(answererBeat)
	}
}

// Hold has the holder keep a listener, instead of the one under its key.
func (a *Answerer) Hold(x Listener) error { return a.link.sendListener(x) }

// Drop has the holder close the descriptor under a key. A holder that is gone keeps nothing.
func (a *Answerer) Drop(key uint64) {
	_ = a.link.send(message{kind: msgDrop, items: []item{{ListenersRegion, key}}})
}

// Left says that this process has left the holder.
func (a *Answerer) Left() error { return a.link.send(message{kind: msgLeft}) }

// Follow carries out what the holder says: it calls drain when another answerer is to serve, leave when the holder
// ends. It returns when the link ends: the holder has died.
func (a *Answerer) Follow(drain, leave func()) error {
	buf, oob := receiveBuffers()
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

func (l *link) sendListener(x Listener) error {
	return l.send(message{kind: msgHold, items: []item{{ListenersRegion, x.Key}}, fds: []int{x.FD}, text: []byte(x.Word)})
}
