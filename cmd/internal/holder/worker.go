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

// Descriptors that a worker is given.
const (
	workerLink = 3 + iota
	workerArena
	workerSocket
	workerLock    // kept open and nothing else: a worker that outlives its holder keeps a second daemon from its guests
	workerMetrics // where there is a listener for metrics
)

// Start is what a worker is told.
type Start struct {
	Settings json.RawMessage `json:"settings"` // Config.Settings
	Holder   int             `json:"holder"`   // pid
	Since    time.Time       `json:"since"`    // of the holder
	Restarts uint64          `json:"restarts"` // workers before this one that died
	Reason   string          `json:"reason"`   // why there is another worker, "" for the first one
	Crashed  bool            `json:"crashed"`  // the one before failed by itself: what it was doing is suspect
	Died     time.Time       `json:"died"`     // when the one before stopped serving
	Types    *Types          `json:"types"`    // nil: the holder knows of no such thing
	Dying    []int           `json:"dying"`    // pids of workers before this one that are dead but for threads in the kernel
}

// Worker is a worker's end of the link. Its methods may be called from any goroutine.
type Worker struct {
	Arena   *state.Arena
	Socket  *os.File // listening
	Metrics *os.File // listening, or nil

	link    *link
	result  chan string
	drained chan struct{} // closed when another worker is to go on
	types   Types         // immutable once Prepare has returned

	mu    sync.Mutex
	shows shows // guarded by mu
}

// Connect takes over what the holder gives a worker. The arena's error says that this program cannot go on from it.
func Connect() (*Worker, error) {
	l, err := openLink(os.NewFile(workerLink, "link"))
	if err != nil {
		return nil, fmt.Errorf("cannot reach the holder: %w; %s is for vcgroupfs serve alone", err, WorkerCommand)
	}
	w := &Worker{link: l, Socket: os.NewFile(workerSocket, "socket"), result: make(chan string, 1), drained: make(chan struct{})}
	w.shows.waiting = map[int]chan string{}
	if _, err := unix.FcntlInt(workerMetrics, unix.F_GETFD, 0); err == nil && os.Getenv(metricsVariable) != "" {
		w.Metrics = os.NewFile(workerMetrics, "metrics")
	}
	for fd := workerArena; fd <= workerMetrics; fd++ {
		unix.CloseOnExec(fd)
	}
	w.Arena, err = state.Map(os.NewFile(workerArena, "arena"))
	return w, err
}

const metricsVariable = "VCGROUPFS_METRICS_LISTENER"

// Prepare says that this program can go on, and waits until it is to: with the descriptors that are kept, by region and key,
// which are the caller's then. io.EOF when the holder has ended.
func (w *Worker) Prepare() (start Start, held map[int]map[uint64]int, err error) {
	if err := w.link.send(message{kind: msgPrepared}); err != nil {
		return start, nil, err
	}
	held = map[int]map[uint64]int{}
	buf, oob := room()
	for {
		m, err := w.link.receive(buf, oob)
		if err != nil {
			return start, held, err
		}
		switch m.kind {
		case msgHold:
			for i, fd := range m.fds {
				of := held[m.items[i].region]
				if of == nil {
					of = map[uint64]int{}
					held[m.items[i].region] = of
				}
				of[m.items[i].key] = fd
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

// Ready says that this worker serves. What is asked of the holder afterwards, it is asked by a worker that serves.
func (w *Worker) Ready() error { return w.link.send(message{kind: msgReady}) }

// Follow has the holder's requests answered: drain when another worker is to go on, stop when all is to end. It returns when
// the link ends: the holder has died.
func (w *Worker) Follow(drain, stop func()) error {
	buf, oob := room()
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

// Upgrade asks for another program and waits until this worker is to make room for it (nil), or is to stay: an error that
// says why. done ends the wait.
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
		return errors.New("cannot wait for the upgrade any longer; vcgroupfs serve goes on with it")
	}
}

// Keep is what the holder keeps of one region; it is a fs.Holder.
type Keep struct {
	Worker *Worker
	Region int
}

// Hold has a descriptor kept.
func (k Keep) Hold(key uint64, fd int) error {
	return k.Worker.link.send(message{kind: msgHold, items: []item{{k.Region, key}}, fds: []int{fd}})
}

// Drop ends what is kept under a key. A holder that is gone keeps nothing.
func (k Keep) Drop(key uint64) {
	_ = k.Worker.link.send(message{kind: msgDrop, items: []item{{k.Region, key}}})
}

// Forget ends all that is kept of the region.
func (k Keep) Forget() error {
	return k.Worker.link.send(message{kind: msgForget, items: []item{{k.Region, 0}}})
}
