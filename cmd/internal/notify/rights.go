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

// rights are what the kernel asks of a thread that looks a path up (generic_permission, fs/namei.c). This process looks its callers' paths
// up with theirs: with its own an errno would tell anybody what there is in other users' directories, and a mount would come there.
type rights struct {
	uid, gid int // fsuid and fsgid, in this process's user namespace
	groups   []int
	caps     uint64 // effective
	// outer is nil where the capabilities hold as this process's own do. Those of a user namespace below hold for an inode whose owner and
	// group are ids of that namespace (capable_wrt_inode_uidgid, kernel/capability.c), which outer has as this process sees them.
	outer *idRanges
}

// idRanges are the users and groups of a user namespace, by their ids outside.
type idRanges struct{ users, groups []host.IDRange }

// has says whether the owner and the group of an inode are ids of the namespace.
func (r *idRanges) has(st *unix.Statx_t) bool {
	in := func(ranges []host.IDRange, id uint32) bool {
		return slices.ContainsFunc(ranges, func(r host.IDRange) bool { return r.Outside <= int64(id) && int64(id)-r.Outside < r.Size })
	}
	return in(r.users, st.Uid) && in(r.groups, st.Gid)
}

// searchCaps are those by which a directory is searched whatever its mode is.
const searchCaps = 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_DAC_READ_SEARCH

// rights reads a caller's rights, which do not change while it waits.
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

// read fills them with those of a caller's user namespace. Few lookups need them.
func (r *idRanges) read(c *Caller) error {
	users, err1 := c.read("uid_map")
	groups, err2 := c.read("gid_map")
	r.users, r.groups = host.IDRanges(string(users)), host.IDRanges(string(groups))
	return errors.Join(err1, err2)
}

// parseRights reads the text of /proc/<tid>/status.
func parseRights(status string) (*rights, error) {
	const fs = 3 // of the real, effective, saved and file-system id
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

// ownRights are this process's, by which a thread is itself again.
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

// setCaps makes capabilities the effective ones of this thread, as far as it may have them.
func setCaps(caps uint64) error {
	header, data, err := threadCaps()
	if err != nil {
		return err
	}
	data[0].Effective, data[1].Effective = uint32(caps)&data[0].Permitted, uint32(caps>>32)&data[1].Permitted
	return unix.Capset(&header, &data[0])
}

// with does something with these rights and no others. No file of this process's /proc is to be opened there.
func (r *rights) with(do func() error) error {
	own, err := ownRights()
	if err != nil {
		return err
	}
	if r.outer == nil && r.caps&own.caps == own.caps && r.sameIDs(own) {
		return do()
	}
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() { // a change of ids takes the main thread's PR_SET_PDEATHSIG away (commit_creds, kernel/cred.c)
		runtime.UnlockOSThread()
		return host.OnThread(func() error {
			if err := r.take(own); err != nil {
				return err
			}
			return do()
		})
	}
	if err = r.take(own); err == nil {
		err = do()
	}
	if own.giveBack(r) == nil {
		runtime.UnlockOSThread()
	} // else the thread is used for nothing else, and ends with this goroutine
	return err
}

func (r *rights) sameIDs(o *rights) bool {
	return r.uid == o.uid && r.gid == o.gid && slices.Equal(r.groups, o.groups)
}

// take gives the thread these rights, less those that this process has not. EPERM where it may not: without CAP_SETUID and CAP_SETGID.
func (r *rights) take(from *rights) error {
	if err := r.setIDs(from); err != nil {
		return err
	}
	return setCaps(r.effective())
}

// effective are the capabilities of a thread with these rights. Of a user namespace below there are none, but for a directory that it may
// search by them.
func (r *rights) effective() uint64 {
	if r.outer != nil {
		return 0
	}
	return r.caps
}

// giveBack gives the thread this process's rights.
func (r *rights) giveBack(from *rights) error {
	if err := setCaps(r.caps); err != nil {
		return err
	}
	if err := r.setIDs(from); err != nil {
		return err
	}
	return setCaps(r.caps) // a change of the fsuid changes them (cap_task_fix_setuid)
}

// setIDs changes the ids of this thread alone, with which files are judged; no signal and no ptrace goes by them.
func (r *rights) setIDs(from *rights) error {
	if !slices.Equal(r.groups, from.groups) {
		if err := unix.Setgroups(r.groups); err != nil {
			return err
		}
	}
	// Neither call says whether it did anything.
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
