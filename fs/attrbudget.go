package fs

import (
	"math/bits"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/fs/state"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// The kernel charges an extended attribute to whoever sets it (GFP_KERNEL_ACCOUNT in simple_xattr_alloc, fs/xattr.c), which
// is the server, and keeps it for as long as the cgroup. So a guest has a budget of them. The sum is in the guest's state,
// where the next server finds it, and each cgroup's share is in an attribute of the cgroup (attrShare), so that its removal
// gives back what it had without a look at its files.
//
// What always holds: sum and share are raised before the host's call and lowered after it, so a server that dies in between
// leaves them too high and never too low; the request that is sent again, and recount, put them right.
const (
	// attrBudget bounds the kernel memory of all attributes of one guest, in bytes.
	attrBudget = 1 << 20
	// attrReserve is what user.* and trusted.* attributes and times leave for owners and modes: the guest's root can chown
	// a cgroup whoever in the guest has used up the rest.
	attrReserve = attrBudget / 8

	attrShare = "share" // of a cgroup, in decimal
	attrTimes = "times" // on what was given times, since the kernel keeps these in memory of the same kind

	boundAttributes = "attributes" // in events
)

// What an attribute takes of the kernel's memory: struct simple_xattr with the value, and its name, each rounded up to a
// slab; and, once for each file or cgroup, struct kernfs_iattrs. A share is one more attribute.
const (
	xattrHead   = 40
	smallest    = 32
	iattrsBytes = 128
	shareCost   = 256
)

// attrCost is what an attribute costs. stored is its name without the prefix.
func attrCost(stored string, size int) uint64 {
	return slab(xattrHead+size) + slab(len("trusted.vcgroupfs.")+len(stored)+1) + iattrsBytes
}

func slab(n int) uint64 { return uint64(1) << bits.Len(uint(max(n, smallest)-1)) }

// attrAccount is the account of one guest's attributes.
type attrAccount struct {
	state *state.Region // immutable

	// slot is held by who changes attributes that are counted. It is not held across a call that waits for the guest.
	slot chan struct{}

	counted time.Time     // guarded by slot: when the host's cgroups were last gone through
	took    time.Duration // guarded by slot: how long that took
}

func (a *attrAccount) init(r *state.Region) { a.state, a.slot = r, make(chan struct{}, 1) }

// enterAttrs takes the slot, and makes the guest's sum known.
func (v *View) enterAttrs() (leave func()) {
	v.attrs.slot <- struct{}{}
	if _, known := v.attrs.state.Attrs(); !known {
		v.countAttrs()
	}
	return func() { <-v.attrs.slot }
}

// attrChange is an attribute of a cgroup (file "") or of a file in it that is to be set.
type attrChange struct {
	file, stored string
	data         []byte
	flags        int
}

// attrKind says which part of the budget a change may use.
type attrKind int

const (
	guestsAttr attrKind = iota // all but the reserve
	viewsAttr                  // all
)

// setAttrs sets attributes of one cgroup and its files, in order, or none: the error is of the first that failed. again
// says that the server before may have done so. ENOSPC when the guest's budget does not allow for it.
func (v *View) setAttrs(d *host.Dir, kind attrKind, again bool, changes ...attrChange) error {
	for _, c := range changes {
		if err := mayFlags(d, c); err != nil {
			return err
		}
	}
	defer v.enterAttrs()()
	if again {
		v.recountShare(d)
	}
	var before, after uint64
	for _, c := range changes {
		before += presentCost(d, c.file, c.stored)
		after += attrCost(c.stored, len(c.data))
	}
	if err := v.charge(d, kind, before, after); err != nil {
		return err
	}
	for _, c := range changes {
		err := d.SetXattr(c.file, c.stored, c.data, c.flags)
		switch {
		case err != nil && len(changes) > 1:
			v.recountShare(d)
		case err != nil && after > before:
			v.refund(d, after-before)
		}
		if err != nil {
			return err
		}
	}
	if before > after {
		v.refund(d, before-after)
	}
	return nil
}

// mayFlags says what the host will, XATTR_CREATE and XATTR_REPLACE considered, before anything is charged.
func mayFlags(d *host.Dir, c attrChange) error {
	set := isSet(d, c.file, c.stored) == 1
	switch {
	case set && c.flags&unix.XATTR_CREATE != 0:
		return unix.EEXIST
	case !set && c.flags&unix.XATTR_REPLACE != 0:
		return unix.ENODATA
	}
	return nil
}

// removeAttr removes an attribute.
func (v *View) removeAttr(d *host.Dir, file, stored string, again bool) error {
	defer v.enterAttrs()()
	if again {
		defer v.recountShare(d)
	}
	cost := presentCost(d, file, stored)
	err := d.RemoveXattr(file, stored)
	if err == nil {
		v.refund(d, cost)
	}
	return err
}

// presentCost is what an attribute costs now, 0 when it is not set.
func presentCost(d *host.Dir, file, stored string) uint64 {
	n, err := d.GetXattr(file, stored, nil)
	if err != nil {
		return 0
	}
	return attrCost(stored, n)
}

// charge raises a cgroup's share and the guest's sum by what a change costs more than what it replaces. Called with the
// slot.
func (v *View) charge(d *host.Dir, kind attrKind, before, after uint64) error {
	if after <= before {
		return nil
	}
	limit := uint64(attrBudget)
	if kind == guestsAttr {
		limit -= attrReserve
	}
	share, sum := shareOf(d, ""), v.sumOfAttrs()
	more := after - before
	if share == 0 {
		more += shareCost
	}
	if sum+more > limit && v.sumShares() {
		sum = v.sumOfAttrs()
	}
	if sum+more > limit {
		return refuseQuota(unix.ENOSPC, boundAttributes)
	}
	v.attrs.state.SetAttrs(sum + more)
	if err := setShare(d, share+more); err != nil {
		v.attrs.state.SetAttrs(sum)
		return err
	}
	return nil
}

// refund lowers a cgroup's share and the guest's sum. Called with the slot.
func (v *View) refund(d *host.Dir, bytes uint64) {
	share := shareOf(d, "")
	left := share - min(share, bytes)
	if left <= shareCost {
		left = 0
	}
	if setShare(d, left) == nil {
		v.lower(share - left)
	}
}

// lower lowers the guest's sum. Called with the slot.
func (v *View) lower(bytes uint64) {
	sum := v.sumOfAttrs()
	v.attrs.state.SetAttrs(sum - min(sum, bytes))
}

// shareOf is the share of a cgroup (child "") or of a child of it.
func shareOf(d *host.Dir, child string) uint64 {
	var buf [20]byte
	n, err := d.GetXattr(child, attrShare, buf[:])
	if err != nil {
		return 0
	}
	share, err := strconv.ParseUint(string(buf[:n]), 10, 32)
	if err != nil {
		return 0
	}
	return share
}

func setShare(d *host.Dir, share uint64) error {
	if share == 0 {
		if err := d.RemoveXattr("", attrShare); err != nil && status(err) != fuseNoData {
			return err
		}
		return nil
	}
	return d.SetXattr("", attrShare, []byte(strconv.FormatUint(share, 10)), 0)
}

// sumOfAttrs is the guest's sum, with the slot.
func (v *View) sumOfAttrs() uint64 {
	sum, _ := v.attrs.state.Attrs()
	return sum
}

// countAttrs finds the guest's sum on the host: its boundary may have been another guest's, or its cgroups made by a program
// that did not count. What cannot be read has no attributes either.
func (v *View) countAttrs() {
	var sum uint64
	for _, hier := range v.hierarchies {
		_ = hier.boundary.WalkCgroups(func(d *host.Dir) error {
			share := countShare(d)
			if share != shareOf(d, "") {
				_ = setShare(d, share)
			}
			sum += share
			return nil
		})
	}
	v.attrs.state.SetAttrs(sum)
}

// recountEvery is how many times as long as a look at all of a guest's cgroups takes the next one is apart: the host may
// have removed cgroups, but a guest that has used up its budget must not keep the server busy.
const recountEvery = 100

// sumShares adds the shares up anew, unless that was done lately. Called with the slot.
func (v *View) sumShares() bool {
	began := time.Now()
	if began.Sub(v.attrs.counted) < recountEvery*v.attrs.took {
		return false
	}
	var sum uint64
	for _, hier := range v.hierarchies {
		_ = hier.boundary.WalkCgroups(func(d *host.Dir) error {
			sum += shareOf(d, "")
			return nil
		})
	}
	v.attrs.state.SetAttrs(sum)
	v.attrs.counted = time.Now()
	v.attrs.took = v.attrs.counted.Sub(began)
	return true
}

// recountShare puts the share of a cgroup right. Called with the slot.
func (v *View) recountShare(d *host.Dir) {
	old, share, sum := shareOf(d, ""), countShare(d), v.sumOfAttrs()
	if old != share && setShare(d, share) == nil {
		v.attrs.state.SetAttrs(sum + share - min(sum, old))
	}
}

// countShare adds up what the attributes of a cgroup and its files cost. The boundary's are the host's doing.
func countShare(d *host.Dir) (share uint64) {
	if d.IsBoundary() {
		return 0
	}
	share = attrsCost(d, "")
	entries, err := d.ReadDir()
	if err != nil {
		return share
	}
	for _, e := range entries {
		if !e.IsDir {
			share += attrsCost(d, e.Name)
		}
	}
	if share > 0 {
		share += shareCost
	}
	return share
}

// attrsCost adds up what the attributes of a cgroup (file "") or a file cost, but for what Reclaim has left there.
func attrsCost(d *host.Dir, file string) (sum uint64) {
	names, err := d.ListXattr(file)
	if err != nil {
		return 0
	}
	for _, name := range names {
		switch name {
		case attrTaken:
			return 0
		case attrShare:
		default:
			sum += presentCost(d, file, name)
		}
	}
	return sum
}

// removeCounted removes a child with rm and gives back what its attributes cost, which are removed, too: a guest that has a
// file of it open would keep them in memory.
func (v *View) removeCounted(d *host.Dir, name string, rm func() error) error {
	if sum, known := v.attrs.state.Attrs(); !known || sum == 0 || shareOf(d, name) == 0 {
		return rm()
	}
	defer v.enterAttrs()()
	attrs, err := d.Stripper(name)
	if err != nil {
		return rm()
	}
	defer attrs.Release()
	share := shareOf(d, name)
	err = rm()
	if err == nil {
		attrs.Strip()
		v.lower(share)
	}
	return err
}
