package conn

import (
	"bytes"
	"testing"
)

// TestOffers: a kernel whose version says that it has a feature offers it, and the FUSE_INIT of a connection says the same as the
// one that is made to ask.
func TestOffers(t *testing.T) {
	var init []byte
	c, _ := mountTiny(t, newTiny(), func(cfg *Config) {
		cfg.Survival = &Survival{Init: func(request []byte) { init = bytes.Clone(request) }}
	})
	<-c.Agreed()
	for offer, minor := range map[Offer]int{OfferPassthrough: 9, OfferResend: 9, OfferPassthrough | OfferResend: 9, OfferIDMap: 12} {
		yes, err := Offers(offer)
		if err != nil || !yes && KernelAtLeast(6, minor) {
			t.Errorf("%#x of Linux 6.%d: %v, %v", uint64(offer), minor, yes, err)
		}
		if same := offerOf(init)&offer == offer; same != yes {
			t.Errorf("%#x: %v to the one that asks, %v to another connection", uint64(offer), yes, same)
		}
	}
	if CanResend() != Resends(nil) || Resends(init) != Resends(nil) || Resends(init[:inHeader+16]) {
		t.Errorf("resending: %v; by FUSE_INIT %v", CanResend(), Resends(init))
	}
}
