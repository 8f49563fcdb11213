package notify

import (
	"errors"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// rights are the rights of a thread in path lookup (generic_permission, fs/namei.c). This process looks up its callers'
// paths with their rights: with its own, an errno would reveal the content of other users' directories, and a mount
// could be attached there.
type rights struct {
	uid, gid int // fsuid and fsgid, in this process's user namespace
	groups   []int
	caps     uint64 // effective
	// outer is nil if the capabilities hold as this process's own do. Capabilities of a user namespace below hold only for
	// an inode whose owner and group are ids of that namespace (capable_wrt_inode_uidgid, kernel/capability.c). outer
	// lists these ids as this process sees them.
	outer *idRanges
}

// idRanges are the users and groups of a user namespace, by their ids outside.
type idRanges struct{ users, groups []host.IDRange }

// has reports that an inode's owner and group are ids of the namespace.
func (r *idRanges) has(st *unix.Statx_t) bool {
	in := func(ranges []host.IDRange, id uint32) bool {
		return slices.ContainsFunc(ranges,
			func(r host.IDRange) bool { return r.Outside <= int64(id) && int64(id)-r.Outside < r.Size })
	}
	return in(r.users, st.Uid) && in(r.groups, st.Gid)
}

// searchCaps allow a search of any directory, whatever its mode.
const searchCaps = 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_DAC_READ_SEARCH

// rights reads a caller's rights. They do not change while the caller waits.
func (c *Caller) rights() (*rights, error) {
	if c.has != nil {
		return c.has, nil
	}
	status, err := c.status()
	if err != nil {
		return nil, err
	}
	r, err := parseRights(status)
	if err != nil {
		return nil, err
	}
	users, err := c.Open("ns/user", unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer unix.Close(users)
	own, err := host.OwnNamespace(users, "user")
	if err != nil {
		return nil, err
	}
	if !own {
		r.outer = &idRanges{}
	}
	c.has = r
	return r, nil
}

// read reads the ids of a caller's user namespace. Few lookups need them.
func (r *idRanges) read(c *Caller) error {
	users, err1 := c.read("uid_map")
	groups, err2 := c.read("gid_map")
	r.users, r.groups = host.IDRanges(string(users)), host.IDRanges(string(groups))
	return errors.Join(err1, err2)
}

// parseRights reads the text of /proc/<tid>/status.
func parseRights(status string) (*rights, error) {
	// Index in: real, effective, saved, file-system id.
	const fs = 3
	r := &rights{}
	var err1, err2, err3 error
	r.uid, err1 = strconv.Atoi(statusField(status, "Uid:", fs))
	r.gid, err2 = strconv.Atoi(statusField(status, "Gid:", fs))
	r.caps, err3 = strconv.ParseUint(statusField(status, "CapEff:", 0), 16, 64)
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, err
	}
	_, groups, found := strings.Cut(status, "\nGroups:")
	if !found {
		return nil, unix.ESRCH
	}
	groups, _, _ = strings.Cut(groups, "\n")
	for word := range strings.FieldsSeq(groups) {
		g, err := strconv.Atoi(word)
		if err != nil {
			return nil, err
		}
		r.groups = append(r.groups, g)
	}
	return r, nil
}

// ownRights are this process's, which a thread returns to.
var ownRights = sync.OnceValues(func() (*rights, error) {
	r := &rights{uid: unix.Geteuid(), gid: unix.Getegid()}
	var err error
	if r.groups, err = unix.Getgroups(); err != nil {
		return nil, err
	}
	_, data, err := threadCaps()
	r.caps = uint64(data[1].Effective)<<32 | uint64(data[0].Effective)
	return r, err
})

func threadCaps() (unix.CapUserHeader, [2]unix.CapUserData, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	err := unix.Capget(&header, &data[0])
	return header, data, err
}

// setCaps sets this thread's effective capabilities, as far as they are permitted.
func setCaps(caps uint64) error {
	header, data, err := threadCaps()
	if err != nil {
		return err
	}
	data[0].Effective, data[1].Effective = uint32(caps)&data[0].Permitted, uint32(caps>>32)&data[1].Permitted
	return unix.Capset(&header, &data[0])
}

// with calls do with these rights and no others. do must not open a file of this process's /proc.
func (r *rights) with(do func() error) error {
	own, err := ownRights()
	if err != nil {
		return err
	}
	if r.outer == nil && r.caps&own.caps == own.caps && r.sameIDs(own) {
		return do()
	}
	runtime.LockOSThread()
	// A change of ids clears the main thread's PR_SET_PDEATHSIG (commit_creds, kernel/cred.c).
	if unix.Gettid() == unix.Getpid() {
		runtime.UnlockOSThread()
		return host.OnThread(func() error {
			if err := r.adopt(own); err != nil {
				return err
			}
			return do()
		})
	}
	if err = r.adopt(own); err == nil {
		err = do()
	}
	// A thread that cannot return to its own rights stays locked: it has no other use, and ends with this goroutine.
	if own.giveBack(r) == nil {
		runtime.UnlockOSThread()
	}
	return err
}

func (r *rights) sameIDs(o *rights) bool {
	return r.uid == o.uid && r.gid == o.gid && slices.Equal(r.groups, o.groups)
}

// adopt gives the thread these rights, without those that this process lacks. EPERM without CAP_SETUID and CAP_SETGID.
func (r *rights) adopt(from *rights) error {
	if err := r.setIDs(from); err != nil {
		return err
	}
	return setCaps(r.effective())
}

// effective returns the effective capabilities of a thread with these rights: none if they are of a user namespace
// below. step raises those for a directory that they may search.
func (r *rights) effective() uint64 {
	if r.outer != nil {
		return 0
	}
	return r.caps
}

// giveBack gives the thread this process's rights again.
func (r *rights) giveBack(from *rights) error {
	if err := setCaps(r.caps); err != nil {
		return err
	}
	if err := r.setIDs(from); err != nil {
		return err
	}
	// A change of the fsuid changes them (cap_task_fix_setuid).
	return setCaps(r.caps)
}

// setIDs changes the ids of this thread for file access only; signals and ptrace do not use them.
func (r *rights) setIDs(from *rights) error {
	if !slices.Equal(r.groups, from.groups) {
		if err := unix.Setgroups(r.groups); err != nil {
			return err
		}
	}
	// Neither call reports its success.
	if r.gid != from.gid {
		_, _ = unix.SetfsgidRetGid(r.gid)
		if now, err := unix.SetfsgidRetGid(-1); err != nil || now != r.gid {
			return unix.EPERM
		}
	}
	if r.uid != from.uid {
		_, _ = unix.SetfsuidRetUid(r.uid)
		if now, err := unix.SetfsuidRetUid(-1); err != nil || now != r.uid {
			return unix.EPERM
		}
	}
	return nil
}
