package fs

import (
	"fmt"
	"regexp"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/fs/state"
)

// Limits of a guest's pressure trigger. The kernel restricts an unprivileged opener to windows of multiples of 2 s
// (psi_trigger_create, since 6.5). The server is privileged, so the view enforces that.
const (
	triggerStepUsec = 2_000_000
	triggerMaxUsec  = 10_000_000
	maxTriggers     = 64 // per guest: each holds a host descriptor and work in the kernel
)

// triggerBound counts a guest's pressure triggers.
type triggerBound struct {
	mu    sync.Mutex
	count int // guarded by mu
}

func (b *triggerBound) reserve() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.count >= maxTriggers {
		return false
	}
	b.count++
	return true
}

func (b *triggerBound) free() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.count--
}

// release frees the trigger of a closed handle.
func (b *triggerBound) release(h *handle) {
	h.mu.Lock()
	held := h.trigger
	h.trigger = false
	h.mu.Unlock()
	if held {
		b.free()
	}
}

// writeTrigger answers a write to a pressure file: "some|full THRESHOLD WINDOW" in microseconds. EINVAL for a
// trigger that the kernel would refuse an unprivileged opener, EBUSY for a second one on a descriptor, ENOSPC over
// the guest's bound.
func (v *View) writeTrigger(_ <-chan struct{}, h *handle, _ uint32, data []byte) error {
	if h.hasTrigger() {
		// pressure_write checks this before the text.
		return unix.EBUSY
	}
	command, err := parseTrigger(untilNUL(data))
	if err != nil {
		return err
	}
	if !v.triggers.reserve() {
		return &refusal{unix.ENOSPC, "pressure triggers", true}
	}
	if err := h.command([]byte(command)); err != nil {
		v.triggers.free()
		return err
	}
	v.keepTrigger(h)
	return nil
}

// hasTrigger reports that the descriptor carries a trigger.
func (h *handle) hasTrigger() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.trigger
}

// keepTrigger notes that the descriptor carries a trigger.
func (v *View) keepTrigger(h *handle) {
	h.mu.Lock()
	h.trigger = true
	h.mu.Unlock()
	v.state.Update(h.fh, func(rec *state.Handle) { rec.Flags |= state.Trigger })
}

// countTrigger counts the trigger of an earlier server's write on the descriptor.
func (v *View) countTrigger(h *handle) {
	if !h.hasTrigger() && v.triggers.reserve() {
		v.keepTrigger(h)
	}
}

// triggerForm matches the sscanf format of a trigger (psi_trigger_create): decimal numbers without a sign, nothing
// before the first word, anything after the last number.
var triggerForm = regexp.MustCompile(`^(some|full)[ \t\n\v\f\r]*([0-9]+)[ \t\n\v\f\r]+([0-9]+)`)

// parseTrigger returns the canonical form of a trigger.
func parseTrigger(s string) (string, error) {
	f := triggerForm.FindStringSubmatch(s)
	if f == nil {
		return "", unix.EINVAL
	}
	threshold, err := strconv.ParseUint(f[2], 10, 32)
	if err != nil {
		return "", unix.EINVAL
	}
	window, err := strconv.ParseUint(f[3], 10, 32)
	if err != nil || window == 0 || window > triggerMaxUsec || window%triggerStepUsec != 0 ||
		threshold == 0 || threshold > window {
		return "", unix.EINVAL
	}
	return fmt.Sprintf("%s %d %d", f[1], threshold, window), nil
}
