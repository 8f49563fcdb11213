package fs

import (
	"math"
	"math/bits"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/fs/state"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// The kernel charges an extended attribute to the process that sets it (GFP_KERNEL_ACCOUNT in simple_xattr_alloc,
// fs/xattr.c), here the server, and keeps it as long as the cgroup. So each guest has a budget of attributes. The
// guest's state keeps the sum, where the next server finds it; an attribute of each cgroup (attrShare) keeps the
// cgroup's share, so that its removal refunds the share without reading its files.
//
// What always holds: sum and share rise before the host's call and fall after it. A server that dies in between
// leaves them too high, never too low; the request that the kernel sends again, and recountShare, correct them.
const (
	// attrBudget bounds the kernel memory of all attributes of one guest, in bytes.
	attrBudget = 1 << 20
	// attrReserve is the part of the budget for owners and modes alone: the guest's root can chown a cgroup even if
	// another user in the guest has used up the rest.
	attrReserve = attrBudget / 8

	attrShare = "share" // of a cgroup, in decimal
	attrTimes = "times" // marks a file with times set by the guest, for which the kernel allocates memory of the same kind

	boundAttributes = "attributes" // in events
)

// Kernel memory of an attribute: struct simple_xattr with the value, and the name, each rounded up to a slab size;
// and struct kernfs_iattrs once for each file or cgroup. A share is one more attribute.
const (
	xattrHead   = 40
	smallest    = 32
	iattrsBytes = 128
	shareCost   = 256
)

// attrCost returns the cost of an attribute, in bytes. stored is its name without the prefix.
func attrCost(stored string, size int) uint64 {
	return slab(xattrHead+size) + slab(len("trusted.vcgroupfs.")+len(stored)+1) + iattrsBytes
}

func slab(n int) uint64 { return uint64(1) << bits.Len(uint(max(n, smallest)-1)) }

// attrAccount is the account of one guest's attributes.
type attrAccount struct {
	state *state.Region // immutable

	// slot is held while counted attributes change, and never across a call that waits for the guest.
	slot chan struct{}

	counted time.Time     // guarded by slot: the time of the last walk over the guest's cgroups
	took    time.Duration // guarded by slot: the duration of that walk
}

func (a *attrAccount) init(r *state.Region) { a.state, a.slot = r, make(chan struct{}, 1) }

// enterAttrs acquires the slot, and counts the guest's sum if it is not known.
func (v *View) enterAttrs() (leave func()) {
	v.attrs.slot <- struct{}{}
	if _, known := v.attrs.state.Attrs(); !known {
		v.countAttrs()
	}
	return func() { <-v.attrs.slot }
}

// attrChange sets one attribute.
type attrChange struct {
	stored string
	data   []byte
	flags  int
}

// attrKind is the part of the budget that a change may use.
type attrKind int

const (
	guestsAttr attrKind = iota // all but the reserve
	viewsAttr                  // all
	endsAttr                   // any, for a removal, which must not fail
)

// setAttrs sets attributes of a cgroup or of a file in it, in order; it stops at the first error and returns it. again:
// the previous server may have set them. ENOSPC over the guest's budget.
func (v *View) setAttrs(at host.Node, kind attrKind, again bool, changes ...attrChange) error {
	d := at.Dir()
	for _, c := range changes {
		if err := mayFlags(at, c); err != nil {
			return err
		}
	}
	defer v.enterAttrs()()
	if again {
		v.recountShare(d)
	}
	var before, after uint64
	for _, c := range changes {
		before += presentCost(at, c.stored)
		after += attrCost(at.Stored(c.stored), len(c.data))
	}
	if err := v.charge(d, kind, before, after); err != nil {
		return err
	}
	for _, c := range changes {
		err := at.SetXattr(c.stored, c.data, c.flags)
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

// mayFlags checks XATTR_CREATE and XATTR_REPLACE as the host will, before anything is charged.
func mayFlags(at host.Node, c attrChange) error {
	if c.flags == 0 {
		return nil
	}
	set := isSet(at, c.stored) == 1
	switch {
	case set && c.flags&unix.XATTR_CREATE != 0:
		return unix.EEXIST
	case !set && c.flags&unix.XATTR_REPLACE != 0:
		return unix.ENODATA
	}
	return nil
}

// removeAttr removes an attribute.
func (v *View) removeAttr(at host.Node, stored string, again bool) error {
	d := at.Dir()
	defer v.enterAttrs()()
	if again {
		defer v.recountShare(d)
	}
	cost := presentCost(at, stored)
	err := at.RemoveXattr(stored)
	if err == nil {
		v.refund(d, cost)
	}
	return err
}

// presentCost returns the present cost of an attribute, 0 if it is not set.
func presentCost(at host.Node, stored string) uint64 {
	n, err := at.GetXattr(stored, nil)
	if err != nil {
		return 0
	}
	return attrCost(at.Stored(stored), n)
}

// charge raises the cgroup's share and the guest's sum by the difference of the costs before and after. Called with
// the slot held.
func (v *View) charge(d *host.Dir, kind attrKind, before, after uint64) error {
	if after <= before {
		return nil
	}
	limit := uint64(attrBudget)
	switch kind {
	case guestsAttr:
		limit -= attrReserve
	case endsAttr:
		limit = math.MaxUint64
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

// refund lowers a cgroup's share and the guest's sum. Called with the slot held.
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

// lower lowers the guest's sum. Called with the slot held.
func (v *View) lower(bytes uint64) {
	sum := v.sumOfAttrs()
	v.attrs.state.SetAttrs(sum - min(sum, bytes))
}

// shareOf returns the share of a cgroup (child "") or of one of its children.
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

// sumOfAttrs returns the guest's sum. Called with the slot held.
func (v *View) sumOfAttrs() uint64 {
	sum, _ := v.attrs.state.Attrs()
	return sum
}

// countAttrs finds the guest's sum on the host: the boundary may have belonged to another guest, or a program that
// does not count may have made its cgroups. A cgroup that cannot be read counts as one without attributes.
func (v *View) countAttrs() {
	var sum uint64
	for _, b := range v.boundaries() {
		_ = b.WalkCgroups(func(d *host.Dir) error {
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

// recountEvery is the pause after a walk over a guest's cgroups, in multiples of the walk's duration. The host may
// have removed cgroups, but a guest that has used up its budget must not keep the server busy.
const recountEvery = 100

// sumShares adds up the shares again. False if the last walk was too recent. Called with the slot held.
func (v *View) sumShares() bool {
	began := time.Now()
	if began.Sub(v.attrs.counted) < recountEvery*v.attrs.took {
		return false
	}
	var sum uint64
	for _, b := range v.boundaries() {
		_ = b.WalkCgroups(func(d *host.Dir) error {
			sum += shareOf(d, "")
			return nil
		})
	}
	v.attrs.state.SetAttrs(sum)
	v.attrs.counted = time.Now()
	v.attrs.took = v.attrs.counted.Sub(began)
	return true
}

// recountShare corrects the share of a cgroup. Called with the slot held.
func (v *View) recountShare(d *host.Dir) {
	old, share, sum := shareOf(d, ""), countShare(d), v.sumOfAttrs()
	if old != share && setShare(d, share) == nil {
		v.attrs.state.SetAttrs(sum + share - min(sum, old))
	}
}

// countShare adds up the cost of the attributes of a cgroup and its files. 0 for the boundary, whose attributes are
// the host's.
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

// attrsCost adds up the cost of the attributes of a cgroup (file "") or a file, except those that Reclaim left.
func attrsCost(d *host.Dir, file string) (sum uint64) {
	at, err := d.Node(file)
	if err != nil {
		return 0
	}
	defer at.Close()
	names, err := at.ListXattr()
	if err != nil {
		return 0
	}
	for _, name := range names {
		switch name {
		case attrTaken:
			return 0
		case attrShare:
		default:
			sum += presentCost(at, name)
		}
	}
	return sum
}

// stripPart removes the attributes of a hierarchy's part of a directory, and refunds their cost.
func (v *View) stripPart(d *host.Dir, part string) { v.strip(d, part+"/") }

// stripShown removes the attributes of files that the host does not have, and refunds their cost.
func (v *View) stripShown(d *host.Dir, files []string) {
	var prefixes []string
	for _, file := range files {
		prefixes = append(prefixes, d.Shown(file).Stored(""))
	}
	v.strip(d, prefixes...)
}

// strip removes the attributes of a directory whose names begin with one of the prefixes, and refunds their cost.
func (v *View) strip(d *host.Dir, prefixes ...string) {
	defer v.enterAttrs()()
	names, err := d.Self().ListXattr()
	if err != nil {
		return
	}
	some := false
	for _, name := range names {
		if slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(name, p) }) {
			_ = d.Self().RemoveXattr(name)
			some = true
		}
	}
	if some {
		v.recountShare(d)
	}
}

// removeCounted removes a child by rm, then its attributes, and refunds their cost. Otherwise an open file of the
// child would keep the attributes in memory.
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
