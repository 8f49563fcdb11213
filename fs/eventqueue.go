package fs

import (
	"sync"
	"time"
)

// eventQueue does, off the serving goroutine and one at a time, what must tell the guest's kernel of changes. An
// invalidation can wait for a lock that a request of the guest holds, so no request may wait for it without end. There is a
// goroutine only while there are jobs.
type eventQueue struct {
	view *View // immutable

	mu     sync.Mutex
	jobs   []func()      // guarded by mu; nil when there are none
	idle   chan struct{} // guarded by mu; not nil while jobs are done, closed when that ends
	closed bool          // guarded by mu
}

// queueLength bounds the jobs that wait; more are dropped, and the caches' timeout covers them.
const queueLength = 1024

// invalidationWait is how long the end of a view waits for a job that is being done.
const invalidationWait = 100 * time.Millisecond

func newEventQueue(v *View) *eventQueue { return &eventQueue{view: v} }

// run does jobs until there are none.
func (q *eventQueue) run(idle chan struct{}) {
	defer close(idle)
	for job := q.next(); job != nil; job = q.next() {
		job()
	}
}

// next takes the job that waits longest, or says that the queue is idle.
func (q *eventQueue) next() func() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.jobs) == 0 {
		q.jobs, q.idle = nil, nil
		return nil
	}
	job := q.jobs[0]
	q.jobs[0] = nil
	q.jobs = q.jobs[1:]
	return job
}

// close drops the jobs that wait and takes no more. One that is being done is waited for a short while: with the connection
// closed it can do nothing to the guest any more, but it may be in a call into the host.
func (q *eventQueue) close() {
	if q == nil {
		return
	}
	q.mu.Lock()
	q.jobs, q.closed = nil, true
	idle := q.idle
	q.mu.Unlock()
	if idle == nil {
		return
	}
	select {
	case <-idle:
	case <-time.After(invalidationWait):
	}
}

// do queues a job; it says whether there was room.
func (q *eventQueue) do(job func()) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed || len(q.jobs) >= queueLength {
		return false
	}
	q.jobs = append(q.jobs, job)
	if q.idle == nil {
		q.idle = make(chan struct{})
		go q.run(q.idle)
	}
	return true
}
