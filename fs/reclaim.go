package fs

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// A runtime may have chowned a guest's cgroup to the guest's root, as LXC, crun and runc do with a user namespace.
// The guest can then mount the real cgroupfs in namespaces of its own and write there without any policy or quota.
// Reclaim makes the host's root the owner again, so that rule 3 also holds for cgroups of other makers.

// attrTaken keeps the former owner of a reclaimed cgroup or file.
const attrTaken = "taken"

// reclaimRounds bounds the walks over a boundary. Another walk is due after one that found files of other owners,
// because a running guest may have made more meanwhile.
const reclaimRounds = 10

// Reclaim makes the host's root the owner of a boundary, of all cgroups below it and of their control files. The
// view continues to show the former owners; the view's owner is the one given.
func Reclaim(b *host.Boundary, owner Owner) error {
	for range reclaimRounds {
		taken := 0
		err := b.Walk(func(d *host.Dir, name string, st *unix.Stat_t) error {
			if st.Uid == 0 && st.Gid == 0 {
				return nil
			}
			taken++
			return reclaim(d, name, ownership{uid: st.Uid, gid: st.Gid, mode: noMode}, owner)
		})
		if err != nil || taken == 0 {
			return err
		}
	}
	return errors.New("cannot reclaim the guest's cgroups: new ones of other owners appear as fast")
}

func reclaim(d *host.Dir, name string, had ownership, owner Owner) error {
	if err := d.SetXattr(name, attrTaken, []byte(had.String()), 0); err != nil {
		return fmt.Errorf("cannot remember the owner of %q: %w", name, err)
	}
	if had.uid != owner.UID || had.gid != owner.GID {
		err := d.SetXattr(name, attrOwn, []byte(had.String()), unix.XATTR_CREATE)
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("cannot keep the owner of %q: %w", name, err)
		}
	}
	return d.Chown(name, 0, 0)
}

// GiveBack undoes Reclaim for the cgroups and files that still exist.
func GiveBack(b *host.Boundary) error {
	return b.Walk(func(d *host.Dir, name string, _ *unix.Stat_t) error {
		at, err := d.Node(name)
		if err != nil {
			return nil
		}
		defer at.Close()
		had, ok := readOwnership(at, attrTaken)
		if !ok {
			return nil
		}
		return errors.Join(d.Chown(name, had.uid, had.gid), at.RemoveXattr(attrTaken))
	})
}
