package notify

import (
	"errors"
	"os"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// Bounds on what the callers of one listener keep open of a Supervisor's texts. The memory of a text and of each open
// is this process's, whoever has it open.
const (
	maxText  = 256 << 10 // bytes of one
	maxBytes = 4 << 20   // of all
	maxTexts = 64
	maxGiven = 64 // opens of one
)

// errFull reports that callers keep too many texts open.
var errFull = errors.New("too many files of /proc are kept open")

// texts are files in memory, each with a text that no one can change. Opens of the same text share one. The zero value
// is empty.
type texts struct {
	mu  sync.Mutex // a leaf
	all []*textFile
}

type textFile struct {
	name, text string
	fd         int
	given      int // opens given away since the file was last known to be open nowhere else
}

// open opens a file with a text for reading. The caller closes it. errFull, or the error of a call.
func (t *texts) open(name, text string) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f, err := t.find(name, text)
	if err != nil {
		return -1, err
	}
	fd, err := unix.Open("/proc/self/fd/"+strconv.Itoa(f.fd), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("open", err)
	}
	f.given++
	return fd, nil
}

// find finds a file with room for another open, or makes it. t.mu is held.
func (t *texts) find(name, text string) (*textFile, error) {
	if len(text) > maxText {
		return nil, errFull
	}
	for _, f := range t.all {
		if f.name == name && f.text == text && (f.given < maxGiven || f.idle()) {
			return f, nil
		}
	}
	bytes := len(text)
	for _, f := range t.all {
		bytes += len(f.text)
	}
	if len(t.all) >= maxTexts || bytes > maxBytes {
		if t.clear(); len(t.all) >= maxTexts {
			return nil, errFull
		}
		bytes = len(text)
		for _, f := range t.all {
			bytes += len(f.text)
		}
		if bytes > maxBytes {
			return nil, errFull
		}
	}
	fd, err := newText(name, text)
	if err != nil {
		return nil, err
	}
	f := &textFile{name: name, text: text, fd: fd}
	t.all = append(t.all, f)
	return f, nil
}

// clear closes the files that are open nowhere else. t.mu is held.
func (t *texts) clear() {
	var kept []*textFile
	for _, f := range t.all {
		if f.idle() {
			unix.Close(f.fd)
		} else {
			kept = append(kept, f)
		}
	}
	t.all = kept
}

// idle reports that a file is open nowhere else, a memory map of it included: only then the kernel grants a lease for
// writing (check_conflicting_open, fs/locks.c).
func (f *textFile) idle() bool {
	if _, err := unix.FcntlInt(uintptr(f.fd), unix.F_SETLEASE, unix.F_WRLCK); err != nil {
		return false
	}
	_, _ = unix.FcntlInt(uintptr(f.fd), unix.F_SETLEASE, unix.F_UNLCK)
	f.given = 0
	return true
}

// newText makes a sealed file in memory, open for reading.
func newText(name, text string) (int, error) {
	const flags = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	w, err := unix.MemfdCreate(name, flags|unix.MFD_NOEXEC_SEAL)
	if errors.Is(err, unix.EINVAL) {
		// Before Linux 6.3.
		w, err = unix.MemfdCreate(name, flags)
	}
	if err != nil {
		return -1, os.NewSyscallError("memfd_create", err)
	}
	// Its writer counts as an open of it.
	defer unix.Close(w)
	for rest := text; rest != ""; {
		n, err := unix.Write(w, []byte(rest))
		if err != nil {
			return -1, os.NewSyscallError("write", err)
		}
		rest = rest[n:]
	}
	if err := unix.Fchmod(w, 0o444); err != nil {
		return -1, os.NewSyscallError("fchmod", err)
	}
	const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(uintptr(w), unix.F_ADD_SEALS, seals); err != nil {
		return -1, os.NewSyscallError("fcntl", err)
	}
	fd, err := unix.Open("/proc/self/fd/"+strconv.Itoa(w), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	return fd, os.NewSyscallError("open", err)
}
