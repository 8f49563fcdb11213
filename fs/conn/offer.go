package conn

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Offer is a set of features that a kernel offers in FUSE_INIT (include/uapi/linux/fuse.h).
type Offer uint64

// The offers for callers outside the connection. Distributions backport them, so the kernel's version does not tell.
const (
	OfferPassthrough Offer = fuse.CAP_PASSTHROUGH   // Linux 6.9
	OfferResend      Offer = fuse.CAP_HAS_RESEND    // Linux 6.9
	OfferIDMap       Offer = fuse.CAP_ALLOW_IDMAP   // Linux 6.12
	OfferURing       Offer = fuse.CAP_OVER_IO_URING // Linux 6.14, where an administrator switched it on
)

// Offers reports that this kernel offers all of some features. The first call asks the kernel, by an unmounted
// connection. The error is that of making one, which needs CAP_SYS_ADMIN.
func Offers(features Offer) (bool, error) {
	offered, err := offers()
	return err == nil && offered&features == features, err
}

// CanResend reports that this kernel sends unanswered requests again; false if the kernel cannot be asked.
func CanResend() bool {
	yes, _ := Offers(OfferResend)
	return yes
}

// Resends is CanResend from a connection's FUSE_INIT, so that each of its servers gets the same answer; nil before
// there is one.
func Resends(init []byte) bool {
	if len(init) == 0 {
		return CanResend()
	}
	return offerOf(init)&OfferResend != 0
}

// offerOf returns the offer in a kernel's FUSE_INIT.
func offerOf(init []byte) Offer {
	// A kernel without flags2, before Linux 5.17.
	if len(init) < int(unsafe.Sizeof(fuse.InitIn{})) {
		return 0
	}
	in := (*fuse.InitIn)(pointer(init, 0))
	if in.Flags&fuse.CAP_INIT_EXT == 0 {
		return Offer(in.Flags)
	}
	return Offer(in.Flags64())
}

// offerWait bounds the wait for FUSE_INIT, which the kernel queues as it makes the superblock (fuse_send_init).
const offerWait = 10 * time.Second

var offers = sync.OnceValues(askOffer)

// askOffer asks the kernel what it offers.
func askOffer() (offered Offer, err error) {
	var init []byte
	c, err := New(Config{
		FS: fuse.NewDefaultRawFileSystem(), FSName: "vcgroupfs", Subtype: "offer",
		Survival: &Survival{Init: func(request []byte) { init = bytes.Clone(request) }},
	})
	if err == nil {
		defer c.Close()
		var mount int
		if mount, err = c.Fsmount(0); err == nil {
			defer unix.Close(mount)
			go c.Serve()
			select {
			case <-c.Agreed():
				return offerOf(init), nil
			case <-time.After(offerWait):
				err = errors.New("it does not begin with the connection")
			}
		}
	}
	return 0, fmt.Errorf("cannot ask the kernel what FUSE offers: %w", err)
}
