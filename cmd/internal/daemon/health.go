package daemon

import (
	"errors"
	"fmt"
	"time"
)

// sweepLate bounds the duration of a pass of the sweeper, which looks at guests and unmounts views.
const sweepLate = 30 * time.Second

// healthy returns nil while this worker does all of its work. It never waits. A hanging worker does not answer at all.
func (d *Daemon) healthy() error {
	if d.table.isClosing() {
		return errors.New("the worker is ending")
	}
	if d.orphan.Load() {
		return errors.New(
			"the holder has ended: guests are served until this worker ends; start vcgroupfs serve anew when they may be " +
				"interrupted")
	}
	if ago := d.sweeper.age().Round(time.Second); ago > sweepLate {
		return fmt.Errorf("no guest has been looked after for %v", ago)
	}
	return nil
}
