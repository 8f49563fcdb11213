package fs

import (
	"sync"
	"time"
)

// eventQueue runs, off the serving goroutine and one at a time, the jobs that tell the guest's kernel of changes. An
// invalidation can wait for a lock that a request of the guest holds, so no request may wait for one without a
// bound. The goroutine exists only while there are jobs.
type eventQueue struct {
	view *View // immutable

	mu     sync.Mutex
	jobs   []func()      // guarded by mu; nil without jobs
	idle   chan struct{} // guarded by mu; not nil while jobs run, closed at their end
	closed bool          // guarded by mu
}

// queueLength bounds the waiting jobs. Jobs beyond it are dropped, and the cache timeout makes up for them.
const queueLength = 1024

// invalidationWait is the time that close gives to the running job.
const invalidationWait = 100 * time.Millisecond

func newEventQueue(v *View) *eventQueue { return &eventQueue{view: v} }

// run runs jobs until none is left.
func (q *eventQueue) run(idle chan struct{}) {
	defer close(idle)
	for job := q.next(); job != nil; job = q.next() {
		job()
	}
}

// next removes the oldest job. Nil, and the queue idle, if there is none.
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

// close drops the waiting jobs and refuses further ones. It waits for the running job, but only briefly: with the
// connection closed the job cannot affect the guest, but it may be in a call into the host.
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

// do queues a job. False if the queue is full or closed.
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
