package runtimes

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unsafe"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/notify"
)

var lxc = &Hook{
	Name: "lxc", Usage: "for LXC and Incus: lxc.hook.start-host and lxc.hook.post-stop",
	Description: "Takes the container from LXC's environment. As start-host it adds a guest whose boundary is the " +
		"container's cgroup and attaches\n" +
		"the view in the container; as post-stop it removes the guest.\n\n" +
		"   lxc.hook.version = 1\n" +
		"   lxc.hook.start-host = /usr/bin/vcgroupfs hook lxc --controllers memory,pids\n" +
		"   lxc.hook.post-stop = /usr/bin/vcgroupfs hook lxc",
	Read: readLXC,
}

// readLXC reads LXC's description of a container (lxc.container.conf(5), "CONTAINER HOOKS ENVIRONMENT VARIABLES").
func readLXC(in Input) (box Container, err error) {
	box = Container{ID: in.Getenv("LXC_NAME"), Of: in.Getenv("LXC_CONFIG_FILE")}
	if box.ID == "" {
		return box, fault.New(fault.Invalid,
			"LXC_NAME is not set: this is run by LXC, as lxc.hook.start-host and lxc.hook.post-stop with lxc.hook.version = 1")
	}
	switch kind := in.Getenv("LXC_HOOK_TYPE"); kind {
	case "post-stop":
		return box, nil
	case "start-host":
		box.Pid, err = in.pid("LXC_PID")
		return box, err
	default:
		return box, fault.New(fault.Invalid,
			"LXC_HOOK_TYPE is %q: this hook is for start-host and post-stop, with lxc.hook.version = 1", kind)
	}
}

// The protocol of lxc.seccomp.notify.proxy (struct seccomp_notify_proxy_msg, src/lxc/lxcseccomp.h of liblxc 5.0): LXC
// keeps the listener, receives each call itself and sends it in one packet, with descriptors of /proc/<pid>, of the
// caller's memory and of the listener. It waits 30 s at most for the same packet with the answer filled in, and
// otherwise answers ENOSYS.
const (
	LXCDescriptors = 3    // sent with a packet
	LXCListener    = 2    // index of the listener among them
	MaxLXCPacket   = 4096 // bytes

	// Bytes: reserved (8), the monitor's pid (4), init's pid (4), three sizes (6), padding (2), the cookie's length (8).
	lxcHead    = 32
	lxcInitPid = 12
	lxcSizes   = 16
)

// LXCCall is a packet of LXC, which has one call.
type LXCCall struct {
	Call     notify.Request
	InitPid  int    // of the container's first process
	Reply    []byte // the packet without the cookie: the form of the reply
	Response []byte // the part of Reply for the answer
}

// ParseLXCCall reads a packet, which the call refers to from then on. The error names sizes that do not fit.
func ParseLXCCall(packet []byte) (*LXCCall, error) {
	if len(packet) < lxcHead {
		return nil, errors.New("cannot read a packet of LXC: it is too short")
	}
	notif := int(binary.NativeEndian.Uint16(packet[lxcSizes:]))
	resp := int(binary.NativeEndian.Uint16(packet[lxcSizes+2:]))
	c := &LXCCall{InitPid: int(int32(binary.NativeEndian.Uint32(packet[lxcInitPid:])))}
	end := lxcHead + notif + resp
	if notif < int(unsafe.Sizeof(c.Call)) || resp < notify.ResponseSize || len(packet) < end {
		return nil, fmt.Errorf("cannot read a packet of LXC: sizes of %d, %d and %d bytes do not fit",
			notif, resp, len(packet))
	}
	c.Reply, c.Response = packet[:end:end], packet[lxcHead+notif:end]
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&c.Call)), unsafe.Sizeof(c.Call)), packet[lxcHead:])
	return c, nil
}
