package holder

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/fs/state"
)

// ListenersRegion is the region of descriptors by which calls of containers are answered (package listener). Guests'
// regions are 0 and more. These belong to containers, which may live longer than their guests. Each has a word about
// it, which goes to the next answerer and is part of its name in the service manager's store.
const ListenersRegion = -2

// listenerName begins the names of these descriptors in the service manager's store: listener-KEY-WORD.
const listenerName = "listener-"

// maxWord is the longest word about a listener: a name in systemd's store has at most 255 bytes (FDNAME_MAX).
const maxWord = 200

// LXCSuffix is what the socket for LXC's protocol has behind the path of the one for the OCI runtimes'.
const LXCSuffix = "-lxc"

// notifySockets are the sockets on which runtimes hand over listeners; nil where there are to be none.
type notifySockets struct{ oci, lxc *os.File }

// listenForListeners makes the sockets that Config.Notify names.
func (h *Holder) listenForListeners() (err error) {
	path := h.config.Notify
	if path == "" {
		return nil
	}
	if h.calls == nil {
		if h.calls, err = state.NewCalls(); err != nil {
			return err
		}
		h.manager.store("calls", h.calls.File())
	}
	for _, p := range []string{path, path + LXCSuffix} {
		if c, err := net.Dial("unix", p); err == nil || !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, unix.ENOENT) {
			if err == nil {
				c.Close()
			}
			return fmt.Errorf("cannot listen on %s: somebody else does; choose another --notify", p)
		}
	}
	if h.notify.oci, err = listen(path, -1); err != nil {
		return err
	}
	h.notify.lxc, err = listenPackets(path + LXCSuffix)
	return err
}

// listenPackets makes a socket of packets that root alone reaches, instead of what a dead daemon left.
func listenPackets(path string) (*os.File, error) {
	if err := makeRoom(path); err != nil {
		return nil, err
	}
	old := unix.Umask(0o177)
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	unix.Umask(old)
	if err != nil {
		return nil, cannotListen(path, err)
	}
	defer l.Close()
	l.SetUnlinkOnClose(false)
	return plainFile(l.File())
}

// removeNotify takes away what listenForListeners made.
func (h *Holder) removeNotify() {
	if h.notify.oci != nil {
		os.Remove(h.config.Notify)
	}
	if h.notify.lxc != nil {
		os.Remove(h.config.Notify + LXCSuffix)
	}
}

// keepListener keeps a listener instead of what was kept under its key.
func (h *Holder) keepListener(key uint64, fd int, word string) {
	h.dropListener(key)
	of := h.kept[ListenersRegion]
	if of == nil {
		of = map[uint64]int{}
		h.kept[ListenersRegion] = of
	}
	if len(word) > maxWord {
		word = word[:maxWord]
	}
	of[key], h.words[key] = fd, word
	h.manager.storeFD(storedListener(key, word), fd)
}

func (h *Holder) dropListener(key uint64) {
	fd, ok := h.kept[ListenersRegion][key]
	if !ok {
		return
	}
	h.manager.unstore(storedListener(key, h.words[key]))
	unix.Close(fd)
	delete(h.kept[ListenersRegion], key)
	delete(h.words, key)
}

// dropListeners ends all that is kept; whoever else has the descriptors keeps them.
func (h *Holder) dropListeners() {
	for key := range h.kept[ListenersRegion] {
		h.dropListener(key)
	}
	delete(h.kept, ListenersRegion)
}

func storedListener(key uint64, word string) string {
	return listenerName + strconv.FormatUint(key, 10) + "-" + word
}

// takeListener keeps a descriptor that the service manager gave back, where its name is a listener's.
func (h *Holder) takeListener(name string, fd int) bool {
	rest, ok := strings.CutPrefix(name, listenerName)
	if !ok {
		return false
	}
	number, word, _ := strings.Cut(rest, "-")
	key, err := strconv.ParseUint(number, 10, 64)
	if err != nil {
		return false
	}
	h.keepListener(key, fd, word)
	return true
}

// sendListeners gives an answerer what is kept.
func (h *Holder) sendListeners(l *link) error {
	for key, fd := range h.kept[ListenersRegion] {
		if err := l.sendListener(Listener{key, fd, h.words[key]}); err != nil {
			return err
		}
	}
	return nil
}

// Listener is a descriptor by which calls of a container are answered, as the holder keeps it.
type Listener struct {
	Key  uint64 // not 0
	FD   int
	Word string // at most 200 printable ASCII characters, no colon among them
}

func (l *link) sendListener(x Listener) error {
	return l.send(message{kind: msgHold, items: []item{{ListenersRegion, x.Key}}, fds: []int{x.FD}, text: []byte(x.Word)})
}
