package conn

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Codes of enum fuse_notify_code.
const (
	notifyPoll       = 1
	notifyInvalInode = 2
	notifyInvalEntry = 3
	notifyDelete     = 6
)

// InvalInode makes the kernel forget what it caches of a node: attributes, and contents if any. A node it does not know is
// no error. os.ErrClosed before the mount and after Close.
func (c *Conn) InvalInode(node uint64) error {
	// struct fuse_notify_inval_inode_out: offset 0 and length 0 is the whole file.
	return c.notify("forget a node", notifyInvalInode, make([]byte, 24), [2]uint64{node}, "")
}

// InvalEntry makes the kernel forget that a directory has an entry of this name, or has none. It waits for the directory's
// lock, which whoever makes or removes something in it holds until we have answered: so it must not be called by a handler,
// nor wait for one. What the kernel does not know is no error; ENOTDIR, ENAMETOOLONG as the kernel answers; os.ErrClosed
// before the mount and after Close.
func (c *Conn) InvalEntry(parent uint64, name string) error {
	return c.notify("forget an entry", notifyInvalEntry, make([]byte, 16), [2]uint64{parent}, name)
}

// DeleteEntry is InvalEntry for a name whose node is gone for good: watchers of the directory are told (IN_DELETE). Besides,
// ENOTEMPTY and EBUSY when the kernel still has entries below it, or a mount on it.
func (c *Conn) DeleteEntry(parent, child uint64, name string) error {
	return c.notify("delete an entry", notifyDelete, make([]byte, 24), [2]uint64{parent, child}, name)
}

// NotifyPoll makes who polls the open file named kh (PollRequest.Kh) ask again. An open file that nobody polls is no error.
// os.ErrClosed before the mount and after Close.
func (c *Conn) NotifyPoll(kh uint64) error {
	return c.notify("wake a poll", notifyPoll, make([]byte, 8), [2]uint64{kh}, "")
}

// notify sends a notification: a header without a request's number and with a code in place of the status, the structure
// with its first words filled in, and a name.
func (c *Conn) notify(what string, code int32, body []byte, words [2]uint64, name string) error {
	for i, w := range words {
		if len(body) >= 8*(i+1) {
			binary.NativeEndian.PutUint64(body[8*i:], w)
		}
	}
	if name != "" { // struct fuse_notify_inval_entry_out, fuse_notify_delete_out: the length follows the node ids
		binary.NativeEndian.PutUint32(body[len(body)-8:], uint32(len(name)))
		body = append(append(body, name...), 0)
	}
	msg := make([]byte, headerSize, headerSize+len(body))
	binary.NativeEndian.PutUint32(msg, uint32(headerSize+len(body)))
	binary.NativeEndian.PutUint32(msg[4:], uint32(code))
	dev, err := c.beginNote()
	if err != nil {
		return err
	}
	defer c.notes.Done()
	err = dev.write(append(msg, body...))
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil // ENOENT: nothing of it is cached
	}
	return fmt.Errorf("cannot tell the kernel to %s: %w", what, os.NewSyscallError("write", err))
}

// beginNote counts a notification in, so that Close can let it finish.
func (c *Conn) beginNote() (*device, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dev == nil || c.closing.Load() {
		return nil, os.ErrClosed
	}
	c.notes.Add(1)
	return c.dev, nil
}
