package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/attach"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/holder"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/target"
	"github.com/vcgroupfs/vcgroupfs/fs/state"
)

// selfKeeper sets up self, follows it and removes it.
type selfKeeper struct {
	cfg selfConfig // immutable

	mu    sync.Mutex // held while self is set up or removed
	dir   *selfDir   // guarded by mu; nil for none
	retry time.Time  // guarded by mu; time of the next try after a failure
}

// selfRetryAfter is the pause before the next try to set up self.
const selfRetryAfter = 2 * time.Second

// follow sets up self if the settings ask for it. It retries after a failure, and logs the first one only. next is the
// time of the next try, zero for none.
func (k *selfKeeper) follow() (next time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.cfg.settings == nil || k.cfg.guests.isClosing() {
		return time.Time{}
	}
	if k.dir != nil {
		select {
		case <-k.dir.served:
			k.cfg.log.Errorf("self at %s was unmounted, or its connection aborted; it is mounted anew", k.dir.at.Target)
			k.dir.end()
			k.dir = nil
		default:
			return time.Time{}
		}
	}
	if time.Now().Before(k.retry) {
		return k.retry
	}
	again := !k.retry.IsZero()
	spec, err := k.cfg.settings.spec()
	var s *selfDir
	if err == nil {
		s, err = newSelf(k.cfg, spec)
	}
	if err == nil {
		err = s.start()
	}
	if err != nil {
		if !again {
			k.cfg.log.WithError(err).Error(
				"containers find no view by themselves: cannot set up self; it is tried again")
		}
		k.retry = time.Now().Add(selfRetryAfter)
		return k.retry
	}
	k.dir, k.retry = s, time.Time{}
	k.cfg.log.Infof("self is mounted at %s", s.at.Target)
	return time.Time{}
}

// stop removes self while the daemon closes.
func (k *selfKeeper) stop() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.dir != nil {
		k.dir.end()
		k.dir = nil
	}
}

// suspend leaves self to the next worker.
func (k *selfKeeper) suspend(ctx context.Context) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.dir == nil {
		return
	}
	if err := k.dir.dir.Suspend(ctx); err != nil {
		k.cfg.log.WithError(err).Info("who touched self is not answered yet; the next worker sees to it")
	}
}

// resume resumes self if the settings still place it there. It removes the descriptors that it uses from held.
func (k *selfKeeper) resume(r *state.Region, rec *selfRecord, held map[uint64]int) (err error) {
	device, ok := held[holder.DeviceKey]
	var s *selfDir
	switch {
	case k.cfg.settings == nil || k.cfg.settings.Path != rec.target:
		err = errors.New("it is not asked for any more")
	case !r.IsSetUp() || !ok:
		err = errors.New("it was being set up")
	default:
		s, err = newSelf(k.cfg, rec.spec)
	}
	if err == nil {
		delete(held, holder.DeviceKey)
		file := os.NewFile(uintptr(device), "fuse")
		s.region, s.at.View = r, mountOf(r)
		close(s.ready)
		err = s.make(file)
		file.Close()
	}
	if err != nil {
		at := &attach.Mountpoint{Target: target.Beside(rec.target), View: mountOf(r)}
		abandon(k.cfg.log, k.cfg.keepers, r, at, held)
		return fmt.Errorf("cannot go on with self at %s: %v", rec.target, err)
	}
	if err := s.dir.Conn().Resend(); err != nil {
		k.cfg.log.WithError(err).Error("cannot have the kernel send again what was not answered")
	}
	s.serve()
	k.mu.Lock()
	k.dir = s
	k.mu.Unlock()
	return nil
}
