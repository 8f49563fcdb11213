package notify

import (
	"time"

	"golang.org/x/sys/unix"
)

// Under a filter with Rules.Proc most calls are opens of other files. They are passed on as soon as the path is read,
// and cost the less the fewer threads have to wake up.

// soon is the time in which a guest that opens files is likely to open the next one.
const soon = 20 * time.Millisecond

// serveOpens is serve for those. It returns as serve does.
func (x *server) serveOpens() error {
	result := make(chan error, 1)
	go x.lead(<-x.free, nil, &Pace{}, result)
	return <-result
}

// lead receives calls until it has one to answer. Another goroutine leads then, and this one answers the call, on the
// thread that received it. If that blocks, Go's runtime finds another thread for the new leader, which has the caller
// that the old one is with watched.
func (x *server) lead(slot *Request, before *Caller, p *Pace, result chan<- error) {
	if before != nil && !before.looked.Load() {
		go x.watchLook(before)
	}
	for {
		if err := x.receiveSoon(slot); err != nil {
			result <- ended(err)
			return
		}
		wait := p.next(time.Now(), openCost+float64(x.owed.Swap(0)))
		select {
		case next := <-x.free:
			c := &Caller{server: x, Request: *slot, proc: -1, slot: slot}
			x.pending.Add(1)
			go func() {
				time.Sleep(wait)
				x.lead(next, c, p, result)
			}()
			x.look(c)
			x.pending.Done()
			return
		default:
			x.send(slot.ID, pass)
			x.observe(true)
			*slot = Request{}
			time.Sleep(wait)
		}
	}
}

// receiveSoon receives a call. It waits in the kernel for a while, without Go's poller.
func (x *server) receiveSoon(slot *Request) error {
	p := []unix.PollFd{{Fd: int32(x.fd), Events: unix.POLLIN}}
	n, err := unix.Poll(p, int(soon/time.Millisecond))
	if err == nil && n == 1 && p[0].Revents == unix.POLLIN {
		if done, err := receiveReady(x.fd, slot); done || err != nil {
			return err
		}
	}
	return receive(x.listener, slot)
}

// look passes an open on if its path names no file that is answered, and answers any other call.
func (x *server) look(c *Caller) {
	a, what := find(c.Arch, c.Nr)
	isOpen := a != nil && (what == callOpen || what == callOpenat || what == callOpenat2)
	named := isOpen && c.reads(what)
	c.looked.Store(true)
	if !isOpen || named {
		x.owed.Add(1)
		if leave, ok := x.begins(); ok {
			x.carryOut(c, c.slot, leave)
			return
		}
	}
	if c.claim() {
		x.finish(c.slot, pass)
	}
}

// watchLook watches a caller whose path is being read: its memory may be a file of the guest's own file system.
func (x *server) watchLook(c *Caller) {
	began, abandoned := time.Now(), 0
	for time.Sleep(watchEvery); !c.looked.Load(); time.Sleep(watchEvery) {
		if time.Since(began) >= x.timeout() {
			x.giveUp(c, c.slot)
		}
		if c.Waits() {
			continue
		}
		if abandoned++; abandoned >= 2 && x.Stuck != nil {
			x.Stuck()
		}
	}
}
