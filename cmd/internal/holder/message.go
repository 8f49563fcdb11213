package holder

import (
	"encoding/binary"
	"errors"
)

// The kinds of messages between the holder and a child. They are an ABI between two versions of the program: an
// upgrade's worker has an older holder.
const (
	msgHold     = 'h' // both ways: descriptors, each with a region and a key
	msgDrop     = 'd' // child: the holder can close one descriptor
	msgForget   = 'f' // worker: the holder can close those of a region
	msgPrepared = 'p' // child: it can resume from the arena
	msgStart    = 's' // holder: all descriptors are sent; the text is a Start, or an answerer's settings
	msgReady    = 'r' // child: it serves
	msgDrain    = 'q' // holder: answer the requests that were read, and exit
	msgStop     = 'x' // holder: remove all guests and exit; to an answerer: leave the holder
	msgUpgrade  = 'u' // worker: upgrade; the text is the path of the program
	msgLeft     = 'l' // answerer: it has left the holder
	msgResult   = 'v' // holder: the text says why an upgrade failed
	msgShow     = 't' // worker, where Start has Types: have statfs answer for a view; the text is a fstype.View
	msgShown    = 'k' // holder: that is done; the text is empty, or says why not. The region of both is the worker's count
)

// DeviceKey is the key of a guest's /dev/fuse. Handles, which are the other keys, are never 0.
const DeviceKey = 0

// item names a descriptor.
type item struct {
	region int
	key    uint64
}

const (
	itemSize    = 16
	headerSize  = 8
	maxItems    = 64 // descriptors in one message; the kernel takes 253 (SCM_MAX_FD)
	maxText     = 64 << 10
	messageRoom = headerSize + maxItems*itemSize + maxText
)

// message is one packet of a link.
type message struct {
	kind  byte
	items []item
	text  []byte
	fds   []int // as many as items, or none
}

// append encodes a message, without its descriptors, behind b. A text that is too long is cut off.
func (m message) append(b []byte) []byte {
	b = append(b, m.kind, 0, 0, 0)
	b = binary.NativeEndian.AppendUint32(b, uint32(len(m.items)))
	for _, i := range m.items {
		b = binary.NativeEndian.AppendUint64(b, uint64(i.region))
		b = binary.NativeEndian.AppendUint64(b, i.key)
	}
	return append(b, m.text[:min(len(m.text), maxText)]...)
}

// parse decodes a message.
func parse(b []byte) (message, error) {
	if len(b) < headerSize {
		return message{}, errors.New("cannot read a message of the link: it is too short")
	}
	m := message{kind: b[0]}
	n := int(binary.NativeEndian.Uint32(b[4:]))
	b = b[headerSize:]
	if n > maxItems || len(b) < n*itemSize {
		return message{}, errors.New("cannot read a message of the link: it says more than it holds")
	}
	for i := range n {
		at := b[i*itemSize:]
		m.items = append(m.items, item{int(binary.NativeEndian.Uint64(at)), binary.NativeEndian.Uint64(at[8:])})
	}
	m.text = append([]byte(nil), b[n*itemSize:]...)
	return m, nil
}
