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

// InvalInode makes the kernel drop its cache of a node: attributes, and contents if any. Not an error for a node
// that the kernel does not know. os.ErrClosed before the mount and after Close.
func (c *Conn) InvalInode(node uint64) error {
	// struct fuse_notify_inval_inode_out: offset 0 and length 0 is the whole file.
	return c.notify("forget a node", notifyInvalInode, make([]byte, 24), [2]uint64{node}, "")
}

// InvalEntry makes the kernel drop its cached entry, or cached absence, of a name in a directory. It waits for the
// directory's lock, which a request that makes or removes something there holds until our reply: so a handler must
// neither call it nor wait for it. Not an error for an entry that the kernel does not know; ENOTDIR, ENAMETOOLONG
// from the kernel; os.ErrClosed before the mount and after Close.
func (c *Conn) InvalEntry(parent uint64, name string) error {
	return c.notify("forget an entry", notifyInvalEntry, make([]byte, 16), [2]uint64{parent}, name)
}

// DeleteEntry is InvalEntry for a name whose node is gone for good: it also fires watches of the directory
// (IN_DELETE). Besides, ENOTEMPTY and EBUSY if the kernel still has entries below it, or a mount on it.
func (c *Conn) DeleteEntry(parent, child uint64, name string) error {
	return c.notify("delete an entry", notifyDelete, make([]byte, 24), [2]uint64{parent, child}, name)
}

// NotifyPoll makes the pollers of the open file kh (PollRequest.Kh) poll again. Not an error for a file without
// pollers. os.ErrClosed before the mount and after Close.
func (c *Conn) NotifyPoll(kh uint64) error {
	return c.notify("wake a poll", notifyPoll, make([]byte, 8), [2]uint64{kh}, "")
}

// notify sends a notification: a header with the code in place of the status and no request number, the structure
// with its first words filled in, and a name.
func (c *Conn) notify(what string, code int32, body []byte, words [2]uint64, name string) error {
	for i, w := range words {
		if len(body) >= 8*(i+1) {
			binary.NativeEndian.PutUint64(body[8*i:], w)
		}
	}
	// struct fuse_notify_inval_entry_out, fuse_notify_delete_out: the length follows the node ids.
	if name != "" {
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
		// ENOENT: the kernel has no cache of it.
		return nil
	}
	return fmt.Errorf("cannot tell the kernel to %s: %w", what, os.NewSyscallError("write", err))
}

// beginNote counts a running notification, which Close waits for.
func (c *Conn) beginNote() (*device, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dev == nil || c.closing.Load() {
		return nil, os.ErrClosed
	}
	c.notes.Add(1)
	return c.dev, nil
}
