package fs

import (
	"container/list"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/fs/state"
)

// backing is a host file that the kernel reads itself for the opens of a node (FOPEN_PASSTHROUGH).
type backing struct {
	node, file uint64 // node id, and the host's inode number
	id         int32
	uses       int           // guarded by backingTable.mu
	idle       *list.Element // guarded by backingTable.mu; not nil without uses
	kept       int           // guarded by backingTable.mu; index in the state, -1 for none
}

// backingTable has the backings of a connection. The state keeps a backing in use with its opens, and up to
// state.MaxIdle idle ones by themselves. An open host file does not pin a removed cgroup.
type backingTable struct {
	state *state.Region // immutable

	mu     sync.Mutex
	byNode map[uint64]*backing // guarded by mu; nil before its first use
	idle   list.List           // guarded by mu; of *backing, most recently used first
	kept   []*backing          // guarded by mu; by index in the state as far as used, some nil
}

// adopt adds one use of a backing that an earlier server registered.
func (t *backingTable) adopt(node, file uint64, id int32) *backing {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := t.byNode[node]
	if b == nil {
		b = t.add(node, file, id)
	}
	b.uses++
	return b
}

// add makes a backing without uses. Called with mu held.
func (t *backingTable) add(node, file uint64, id int32) *backing {
	b := &backing{node: node, file: file, id: id, kept: -1}
	if t.byNode == nil {
		t.byNode = map[uint64]*backing{}
	}
	t.byNode[node] = b
	return b
}

// load adds the backings that were idle, after adopt has added those in use.
func (t *backingTable) load() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.state.LastBacking() == 0 {
		// No backing was ever registered.
		return
	}
	t.kept = make([]*backing, state.MaxIdle)
	for i := range t.kept {
		rec := t.state.Idle(i)
		if rec.ID == 0 {
			continue
		}
		if t.byNode[rec.Node] != nil {
			t.state.SetIdle(i, state.Backing{})
			continue
		}
		b := t.add(rec.Node, rec.File, rec.ID)
		b.kept, t.kept[i] = i, b
		b.idle = t.idle.PushFront(b)
	}
}

// keep finds an index in the state for a backing that becomes idle: a free one, or one whose backing is in use again
// and kept with its opens. It returns the idle backing that had to go, or nil. Called with mu held.
func (t *backingTable) keep(b *backing) (gone *backing) {
	if b.kept < 0 {
		i := slices.IndexFunc(t.kept, func(k *backing) bool { return k == nil || k.uses > 0 })
		switch {
		case i < 0 && len(t.kept) < state.MaxIdle:
			i, t.kept = len(t.kept), append(t.kept, nil)
		case i < 0:
			gone = t.forget(t.idle.Back().Value.(*backing))
			i = slices.Index(t.kept, nil)
		}
		if old := t.kept[i]; old != nil {
			old.kept = -1
		}
		b.kept, t.kept[i] = i, b
		t.state.SetIdle(i, state.Backing{Node: b.node, File: b.file, ID: b.id})
	}
	return gone
}

// get adds one use to the backing of a node and returns it, or nil.
func (t *backingTable) get(node uint64) *backing {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := t.byNode[node]
	if b != nil {
		t.use(b)
	}
	return b
}

// use adds one use. Called with mu held.
func (t *backingTable) use(b *backing) {
	b.uses++
	if b.idle != nil {
		t.idle.Remove(b.idle)
		b.idle = nil
	}
}

// put adds a backing for a node, with one use. If another open was quicker, put uses that one and reports the
// caller's as spare, to be closed.
func (t *backingTable) put(node, file uint64, id int32) (b *backing, spare bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if b = t.byNode[node]; b != nil {
		t.use(b)
		return b, true
	}
	b = t.add(node, file, id)
	b.uses = 1
	return b, false
}

// drop ends one use. It returns a backing to be closed, or nil.
func (t *backingTable) drop(b *backing) *backing {
	t.mu.Lock()
	defer t.mu.Unlock()
	b.uses--
	if b.uses > 0 {
		return nil
	}
	gone := t.keep(b)
	b.idle = t.idle.PushFront(b)
	return gone
}

// forget removes an idle backing. Called with mu held.
func (t *backingTable) forget(b *backing) *backing {
	t.idle.Remove(b.idle)
	delete(t.byNode, b.node)
	if b.kept >= 0 {
		t.state.SetIdle(b.kept, state.Backing{})
		t.kept[b.kept] = nil
		b.kept = -1
	}
	return b
}

// conflict reports that opens of a node use another host file than this one.
func (t *backingTable) conflict(node, file uint64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := t.byNode[node]
	return b != nil && b.uses > 0 && b.file != file
}

// used reports that opens of a node use its backing.
func (t *backingTable) used(node uint64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := t.byNode[node]
	return b != nil && b.uses > 0
}

// discard removes the idle backing of a node for another file than this one, and returns it to be closed.
func (t *backingTable) discard(node, file uint64) *backing {
	t.mu.Lock()
	defer t.mu.Unlock()
	if b := t.byNode[node]; b != nil && b.idle != nil && b.file != file {
		return t.forget(b)
	}
	return nil
}

// back finds or registers the backing of a node; nil without a file to register. It closes file.
func (v *View) back(node uint64, file *hostFile) *backing {
	if file != nil {
		defer unix.Close(file.fd)
	}
	if file != nil {
		if old := v.backings.discard(node, file.ino); old != nil {
			v.closeBacking(old.id)
		}
	}
	b := v.backings.get(node)
	if b != nil || file == nil {
		return b
	}
	id, err := v.conn.OpenBacking(file.fd)
	if err != nil {
		v.log.WithError(err).Debug("cannot register a backing file, reads go through the server")
		return nil
	}
	v.state.SetLastBacking(id)
	b, spare := v.backings.put(node, file.ino, id)
	if spare {
		v.closeBacking(id)
	}
	return b
}

// unuse ends one use of a backing.
func (v *View) unuse(b *backing) {
	if old := v.backings.drop(b); old != nil {
		v.closeBacking(old.id)
	}
}

func (v *View) closeBacking(id int32) {
	if err := v.conn.CloseBacking(id); err != nil {
		v.log.WithError(err).Debug("cannot close a backing file")
	}
}
