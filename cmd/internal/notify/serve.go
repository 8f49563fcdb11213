package notify

import (
	"errors"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// response is struct seccomp_notif_resp.
type response struct {
	id    uint64
	val   int64
	errno int32
	flags uint32
}

// server is a Supervisor at one listener.
type server struct {
	*Supervisor
	listener *os.File         // immutable
	fd       int              // immutable; a duplicate of the listener, for answers
	free     chan *Request    // slots
	running  atomic.Int32     // calls under way, also those that a guest's file system blocks
	pending  sync.WaitGroup   // the same
	looking  [3]chan struct{} // one element for each call that may wait for a guest's file system
	asking   chan struct{}    // the same, for the view
	texts    texts            // files given to callers
	owed     atomic.Int32     // calls answered that serveOpens has counted as opens only

	mu   sync.Mutex
	slow map[string]int         // guarded by mu; paths under a long lookup, and the number of their calls
	made map[identity]time.Time // guarded by mu; calls that made a change but whose answer found no caller
}

// identity recognises a call that is repeated after a signal. Before Linux 5.19 each signal ends the wait for an
// answer, and the kernel restarts the call.
type identity struct {
	tid  uint32
	nr   int32
	ip   uint64
	args [6]uint64
}

func (r *Request) identity() identity { return identity{r.Tid, r.Nr, r.IP, r.Args} }

const (
	maxMade  = 64
	madeTime = 10 * time.Second
)

// Serve answers calls until the last process under the listener's filter has ended (nil), or the listener is closed
// (os.ErrClosed). It receives into the memory of slots, and needs two of them; with fewer it allocates its own. An
// occupied slot holds a call that an earlier server received and perhaps did not answer: those come first. Calls under
// way when Serve returns are still answered.
func (s *Supervisor) Serve(listener *os.File, slots []*Request) error {
	x, err := newServer(s, listener)
	if err != nil {
		return err
	}
	defer func() {
		go func() {
			x.pending.Wait()
			unix.Close(x.fd)
		}()
	}()
	if len(slots) < 2 {
		slots = nil
		for range s.Slots() {
			slots = append(slots, &Request{})
		}
	}
	x.free = make(chan *Request, len(slots))
	for _, r := range slots {
		if r.ID == 0 {
			*r = Request{}
			x.free <- r
		} else {
			x.begin(r, true)
		}
	}
	if s.Proc != nil {
		return x.serveOpens()
	}
	return x.serve()
}

func newServer(s *Supervisor, listener *os.File) (*server, error) {
	// procFD opens /proc before any thread is in another mount namespace.
	procFD()
	fd, err := duplicate(listener)
	if err != nil {
		return nil, err
	}
	return s.at(listener, fd), nil
}

func (s *Supervisor) at(listener *os.File, fd int) *server {
	return &server{
		Supervisor: s, listener: listener, fd: fd, slow: map[string]int{}, made: map[identity]time.Time{},
		looking: [3]chan struct{}{make(chan struct{}, s.threads()), make(chan struct{}, s.threads()),
			make(chan struct{}, s.threads())},
		asking: make(chan struct{}, s.threads()),
	}
}

// duplicate returns a new descriptor of the open file: the number of the file's own one is reused after its close.
func duplicate(f *os.File) (fd int, err error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return -1, err
	}
	if cerr := raw.Control(func(of uintptr) { fd, err = unix.FcntlInt(of, unix.F_DUPFD_CLOEXEC, 3) }); cerr != nil {
		return -1, cerr
	}
	return fd, os.NewSyscallError("fcntl", err)
}

// NewListener makes a file of a listener, which it takes over. A read waits in Go's poller, not in a thread.
// *os.SyscallError.
func NewListener(fd int) (*os.File, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fd), "seccomp listener"), nil
}

// serve receives calls. The slot for the next call is never occupied, so that a call can always be received and passed
// on.
func (x *server) serve() error {
	slot := <-x.free
	var p Pace
	for {
		if err := receive(x.listener, slot); err != nil {
			return ended(err)
		}
		wait := p.Next(time.Now())
		select {
		case next := <-x.free:
			x.begin(slot, false)
			slot = next
		default:
			x.send(slot.ID, pass)
			x.observe(true)
			*slot = Request{}
		}
		if wait > 0 {
			time.Sleep(wait)
		}
	}
}

var errEnded = errors.New("the last process has ended")

func ended(err error) error {
	if errors.Is(err, errEnded) {
		return nil
	}
	return err
}

// Await waits until a call is ready (true), the last process under the filter has ended (false), or the listener is
// closed (os.ErrClosed).
func Await(listener *os.File) (bool, error) {
	err := await(listener, func(int) (bool, error) { return true, nil })
	return err == nil, ended(err)
}

// receive waits for a call and receives it. It must be the listener's only receiver: receiving without a ready call
// blocks (seccomp_notify_recv).
func receive(listener *os.File, slot *Request) error {
	return await(listener, func(fd int) (bool, error) { return receiveReady(fd, slot) })
}

// receiveReady receives a call that is ready.
func receiveReady(fd int, slot *Request) (done bool, err error) {
	err = ioctl(fd, unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(slot))
	// A signal interrupted the call meanwhile.
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINTR) {
		*slot = Request{}
		return false, nil
	}
	return true, os.NewSyscallError("ioctl", err)
}

// await waits in Go's poller, and calls do for each ready call, until do is done. errEnded, or os.ErrClosed.
func await(listener *os.File, do func(fd int) (done bool, err error)) error {
	raw, err := listener.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Read(func(fd uintptr) (done bool) {
		for {
			ready, err := poll(int(fd))
			if err == nil && !ready {
				return false
			}
			if err == nil {
				done, err = do(int(fd))
			}
			if done || err != nil {
				failed = err
				return true
			}
		}
	})
	if err != nil {
		if _, closed := listener.Stat(); errors.Is(closed, os.ErrClosed) {
			// The raw connection has an error of its own for it.
			return os.ErrClosed
		}
	}
	return errors.Join(err, failed)
}

// poll reports that a listener has a ready call. errEnded if no call will follow.
func poll(fd int) (bool, error) {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(p, 0)
	for errors.Is(err, unix.EINTR) {
		n, err = unix.Poll(p, 0)
	}
	switch {
	case err != nil:
		return false, os.NewSyscallError("poll", err)
	case n > 0 && p[0].Revents&unix.POLLIN != 0:
		return true, nil
	case n > 0 && p[0].Revents&unix.POLLHUP != 0:
		return false, errEnded
	}
	return false, nil
}

func ioctl(fd int, request uintptr, arg unsafe.Pointer) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(arg))
	if errno != 0 {
		return errno
	}
	return nil
}

// send answers a call. It reports that the caller still waited.
func (x *server) send(id uint64, a answer) bool { return send(x.fd, id, a) }

func send(fd int, id uint64, a answer) bool {
	r := response{id: id, errno: -int32(a.errno)}
	if a.opened {
		opened, err := inject(fd, id, a)
		switch {
		case err == nil:
			r.val = int64(opened)
		case errors.Is(err, unix.ENOENT):
			return false
		default:
			// The caller has no room for a descriptor, or the kernel is too old.
			a = pass
		}
	}
	if a.passOn {
		r = response{id: id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
	}
	return ioctl(fd, unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&r)) == nil
}

// addFD is struct seccomp_notif_addfd.
type addFD struct {
	id           uint64
	flags        uint32
	srcfd, newfd uint32
	newfdFlags   uint32
}

// inject gives a caller, which still waits, a descriptor of a file (Linux 5.9). It does not answer the call:
// SECCOMP_ADDFD_FLAG_SEND does so in the same step, but if a signal, SIGKILL included, ends the wait for the caller to
// take the descriptor, then the caller takes none and its call returns 0, which is another file of its own
// (seccomp_notify_addfd in kernel/seccomp.c, Linux 6.18). If this process is killed between the two steps, or
// before Linux 5.19 a signal ends the caller's wait there, the caller keeps a descriptor that it does not know.
func inject(fd int, id uint64, a answer) (opened int, err error) {
	r := addFD{id: id, srcfd: uint32(a.file)}
	if a.cloexec {
		r.newfdFlags = unix.O_CLOEXEC
	}
	for {
		const request = unix.SECCOMP_IOCTL_NOTIF_ADDFD
		n, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(unsafe.Pointer(&r)))
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
			continue
		}
		return -1, errno
	}
}

func valid(fd int, id uint64) bool {
	return ioctl(fd, unix.SECCOMP_IOCTL_NOTIF_ID_VALID, unsafe.Pointer(&id)) == nil
}

// begin starts to answer a call, and frees its slot afterwards.
func (x *server) begin(slot *Request, again bool) {
	c := &Caller{server: x, Request: *slot, proc: -1, again: again}
	leave, ok := x.begins()
	if !ok {
		x.finish(slot, pass)
		return
	}
	x.pending.Go(func() { x.carryOut(c, slot, leave) })
}

// begins admits a call.
func (x *server) begins() (leave func(), ok bool) {
	if int(x.running.Add(1)) <= x.threads()*perThread {
		if leave, ok = x.admit(); ok {
			return leave, true
		}
	}
	x.running.Add(-1)
	return nil, false
}

// carryOut answers a call, and frees its slot.
func (x *server) carryOut(c *Caller, slot *Request, leave func()) {
	defer leave()
	defer x.running.Add(-1)
	c.again = c.again || x.repeated(&c.Request)
	timer := time.AfterFunc(x.timeout(), func() { x.giveUp(c, slot) })
	a := c.answer()
	c.close()
	timer.Stop()
	if c.acted || c.claim() {
		x.finish(slot, a)
	}
	a.drop()
}

// giveUp passes a call on that is not answered yet.
func (x *server) giveUp(c *Caller, slot *Request) {
	if c.claim() {
		x.debugf("a call of task %d takes too long: it is passed on", c.Tid)
		x.finish(slot, pass)
	}
}

// finish sends the answer and frees the slot.
func (x *server) finish(slot *Request, a answer) {
	if !x.send(slot.ID, a) && a.made {
		x.remember(slot)
	}
	x.observe(a.passOn)
	*slot = Request{}
	x.free <- slot
}

// remember stores a completed call whose caller did not get the answer.
func (x *server) remember(slot *Request) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.made) >= maxMade {
		clear(x.made)
	}
	x.made[slot.identity()] = time.Now()
}

// repeated reports that a call was completed before.
func (x *server) repeated(slot *Request) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	at, ok := x.made[slot.identity()]
	delete(x.made, slot.identity())
	return ok && time.Since(at) < madeTime
}

// withRoom calls do, which may wait for a file system of the guest's own at a path. Without room it waits for a while.
// False, without a call of do, if no room becomes free or another call has waited for long at the same path.
func (x *server) withRoom(c *Caller, path string, do func()) bool {
	room := x.looking[0]
	switch {
	case strings.HasPrefix(path, "/sys/"):
		// Views are mounted there, and seldom anything else.
		room = x.looking[1]
	case strings.HasPrefix(path, "/proc/"):
		room = x.looking[2]
	}
	if x.isSlow(path) || !x.enter(room) {
		return false
	}
	defer func() { <-room }()
	x.watched(c, path, do)
	return true
}

// watched calls do, which may block, at a path or at none (""), under a watch.
func (x *server) watched(c *Caller, path string, do func()) {
	done, over := make(chan struct{}), make(chan struct{})
	timer := time.AfterFunc(watchEvery, func() {
		defer close(over)
		x.watch(c, path, done)
	})
	do()
	close(done)
	if !timer.Stop() {
		<-over
	}
}

// watch marks a path whose lookup takes long, so that other calls avoid it, and reports a lookup whose caller waits no
// more. Its thread may hold the caller's memory and locks of the guest's file system, for which the guest's own threads
// wait even when they are killed.
func (x *server) watch(c *Caller, path string, done <-chan struct{}) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	began, slow := time.Now(), path == ""
	for abandoned := 0; ; {
		select {
		case <-done:
			return
		case <-tick.C:
		}
		if !slow && time.Since(began) >= slowAfter {
			slow = true
			x.mark(path, +1)
			defer x.mark(path, -1)
		}
		if c.Waits() {
			continue
		}
		if abandoned++; abandoned == 2 && x.Stuck != nil {
			x.Stuck()
		}
	}
}

func (x *server) mark(path string, by int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.slow[path] += by; x.slow[path] == 0 {
		delete(x.slow, path)
	}
}

func (x *server) isSlow(path string) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.slow[path] > 0
}

// enter waits for room, for a bounded time.
func (x *server) enter(room chan struct{}) bool {
	select {
	case room <- struct{}{}:
		return true
	default:
	}
	timer := time.NewTimer(min(roomTime, x.timeout()))
	defer timer.Stop()
	select {
	case room <- struct{}{}:
		return true
	case <-timer.C:
		return false
	}
}

// PassOn passes all calls on, starting with the received and unanswered ones in slots, until the last process under the
// filter has ended (nil) or the listener is closed (os.ErrClosed).
func PassOn(listener *os.File, slots []*Request) error {
	fd, err := duplicate(listener)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for _, r := range slots {
		if r.ID != 0 {
			send(fd, r.ID, pass)
			*r = Request{}
		}
	}
	slot := &Request{}
	if len(slots) > 0 {
		slot = slots[0]
	}
	for {
		if err := receive(listener, slot); err != nil {
			return ended(err)
		}
		send(fd, slot.ID, pass)
		*slot = Request{}
	}
}
