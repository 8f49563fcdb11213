package holder

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/fs/state"
)

// WorkerCommand is the argument that makes this program a worker. It is not for users.
const WorkerCommand = "serve-worker"

// Descriptors that a worker inherits.
const (
	workerLink = 3 + iota
	workerArena
	workerSocket
	workerLock    // only kept open: a worker that outlives its holder keeps a second daemon from its guests
	workerMetrics // where metricsVariable is set
)

// Start tells a worker to resume the guests.
type Start struct {
	Settings json.RawMessage `json:"settings"` // Config.Settings
	Holder   int             `json:"holder"`   // pid
	Since    time.Time       `json:"since"`    // of the holder
	Restarts uint64          `json:"restarts"` // workers before this one that died
	Reason   string          `json:"reason"`   // why the worker before this one ended, "" for the first one
	Crashed  bool            `json:"crashed"`  // the worker before failed by itself: its last requests are suspect
	Died     time.Time       `json:"died"`     // when the worker before stopped serving
	Types    *Types          `json:"types"`    // nil: the holder is of a version without them
	Dying    []int           `json:"dying"`    // pids of earlier workers, dead but for threads in the kernel
	Watchdog time.Duration   `json:"watchdog"` // a worker without a beat for so long is killed; 0: unknown
}

// Worker is a worker's end of the link. Its methods may be called from any goroutine.
type Worker struct {
	Arena   *state.Arena
	Socket  *os.File // listening
	Metrics *os.File // listening, or nil

	link    *link
	result  chan string
	drained chan struct{} // closed when another worker is to serve
	types   Types         // immutable once Prepare has returned

	mu    sync.Mutex
	shows shows // guarded by mu
}

// metricsVariable is set for a worker that inherits workerMetrics.
const metricsVariable = "VCGROUPFS_METRICS_LISTENER"

// Connect opens what a worker inherits from the holder. The arena's error says that this program cannot resume from it.
func Connect() (*Worker, error) {
	l, err := openLink(os.NewFile(workerLink, "link"))
	if err != nil {
		return nil, fmt.Errorf("cannot reach the holder: %w; %s is for vcgroupfs serve alone", err, WorkerCommand)
	}
	w := newWorker(l)
	w.Socket = os.NewFile(workerSocket, "socket")
	if _, err := unix.FcntlInt(workerMetrics, unix.F_GETFD, 0); err == nil && os.Getenv(metricsVariable) != "" {
		w.Metrics = os.NewFile(workerMetrics, "metrics")
	}
	for fd := workerArena; fd <= workerMetrics; fd++ {
		unix.CloseOnExec(fd)
	}
	w.Arena, err = state.Map(os.NewFile(workerArena, "arena"))
	return w, err
}

func newWorker(l *link) *Worker {
	w := &Worker{link: l, result: make(chan string, 1), drained: make(chan struct{})}
	w.shows.waiting = map[int]chan string{}
	return w
}

// Prepare says that this program can resume, and waits until it is to: with the descriptors that are kept, by region
// and key, which the caller owns then. io.EOF when the holder has ended, or wants this worker no more.
func (w *Worker) Prepare() (start Start, held map[int]map[uint64]int, err error) {
	if err := w.link.send(message{kind: msgPrepared}); err != nil {
		return start, nil, err
	}
	held = map[int]map[uint64]int{}
	buf, oob := receiveBuffers()
	for {
		m, err := w.link.receive(buf, oob)
		if err != nil {
			return start, held, err
		}
		switch m.kind {
		case msgHold:
			for i, fd := range m.fds {
				region := held[m.items[i].region]
				if region == nil {
					region = map[uint64]int{}
					held[m.items[i].region] = region
				}
				region[m.items[i].key] = fd
			}
		case msgStart:
			err := json.Unmarshal(m.text, &start)
			w.types = typesOf(start.Types)
			return start, held, err
		case msgDrain, msgStop:
			return start, held, io.EOF
		}
	}
}

// Ready says that this worker serves. The holder refuses an upgrade before.
func (w *Worker) Ready() error { return w.link.send(message{kind: msgReady}) }

// Follow carries out what the holder says: it calls drain when another worker is to serve, stop when all guests are to
// be removed. It returns when the link ends: the holder has died.
func (w *Worker) Follow(drain, stop func()) error {
	buf, oob := receiveBuffers()
	for {
		m, err := w.link.receive(buf, oob)
		if err != nil {
			return err
		}
		switch m.kind {
		case msgDrain:
			close(w.drained)
			go drain()
		case msgStop:
			go stop()
		case msgShown:
			w.shown(m)
		case msgResult:
			select {
			case w.result <- string(m.text):
			default:
			}
		}
	}
}

// Upgrade asks the holder to upgrade to a program, and waits until this worker is to drain (nil), or stays: an error
// that says why. done ends the wait.
func (w *Worker) Upgrade(program string, done <-chan struct{}) error {
	select {
	case <-w.result:
	default:
	}
	if err := w.link.send(message{kind: msgUpgrade, text: []byte(program)}); err != nil {
		return err
	}
	select {
	case text := <-w.result:
		return errors.New(text)
	case <-w.drained:
		return nil
	case <-done:
		return errors.New("cannot wait for the upgrade any longer; vcgroupfs serve continues it")
	}
}

// Keep is the holder's store for one region; it is a fs.Holder.
type Keep struct {
	Worker *Worker
	Region int
}

// Hold has the holder keep a descriptor.
func (k Keep) Hold(key uint64, fd int) error {
	return k.Worker.link.send(message{kind: msgHold, items: []item{{k.Region, key}}, fds: []int{fd}})
}

// Drop has the holder close the descriptor under a key. A holder that is gone keeps nothing.
func (k Keep) Drop(key uint64) {
	_ = k.Worker.link.send(message{kind: msgDrop, items: []item{{k.Region, key}}})
}

// Forget has the holder close all that it keeps of the region.
func (k Keep) Forget() error {
	return k.Worker.link.send(message{kind: msgForget, items: []item{{k.Region, 0}}})
}
