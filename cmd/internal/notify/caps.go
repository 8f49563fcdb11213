package notify

import (
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// procFD is a descriptor of this process's /proc, for use by threads in other mount namespaces.
var procFD = sync.OnceValue(func() int {
	fd, err := unix.Open("/proc", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1
	}
	return fd
})

// mayMount reports that a caller may mount: it has CAP_SYS_ADMIN over the owner of its mount namespace (may_mount,
// fs/namespace.c).
func (c *Caller) mayMount() bool { return c.admin("ns/mnt") }

// admin reports that a caller has CAP_SYS_ADMIN over the owner of one of its namespaces.
func (c *Caller) admin(namespace string) bool {
	status, err := c.status()
	if err != nil {
		return false
	}
	users, err := c.Open("ns/user", unix.O_RDONLY)
	if err != nil {
		return false
	}
	defer unix.Close(users)
	var st unix.Stat_t
	if unix.Fstat(users, &st) != nil {
		return false
	}
	ns, err := c.Open(namespace, unix.O_RDONLY)
	if err != nil {
		return false
	}
	defer unix.Close(ns)
	return credentials{hasAdmin(status), effectiveUID(status), st.Ino}.over(ns)
}

// credentials are a caller's, as cap_capable needs them.
type credentials struct {
	admin bool   // CAP_SYS_ADMIN in its user namespace
	uid   uint32 // effective, in this process's user namespace
	users uint64 // inode number of its user namespace
}

// maxUserNamespaces bounds the depth of user namespaces below another one (create_user_ns: 32).
const maxUserNamespaces = 33

// over reports CAP_SYS_ADMIN over a namespace (cap_capable, security/commoncap.c): in the user namespace that owns the
// namespace, in one above, or as the user who made a child of the caller's own user namespace that is the owning one or
// above it.
func (o credentials) over(ns int) bool {
	at, err := unix.IoctlRetInt(ns, unix.NS_GET_USERNS)
	for range maxUserNamespaces {
		if err != nil {
			// Above this process's own user namespace, if anywhere.
			return false
		}
		var st unix.Stat_t
		if unix.Fstat(at, &st) != nil {
			break
		}
		if st.Ino == o.users {
			unix.Close(at)
			return o.admin
		}
		owner, oerr := ownerOf(at)
		var up int
		up, err = unix.IoctlRetInt(at, unix.NS_GET_PARENT)
		unix.Close(at)
		at = up
		if err == nil && oerr == nil && owner == o.uid && unix.Fstat(at, &st) == nil && st.Ino == o.users {
			unix.Close(at)
			return true
		}
	}
	unix.Close(at)
	return false
}

// ownerOf returns the user who made a user namespace.
func ownerOf(users int) (uint32, error) { return unix.IoctlGetUint32(users, unix.NS_GET_OWNER_UID) }

func hasAdmin(status string) bool {
	set, err := strconv.ParseUint(statusField(status, "CapEff:", 0), 16, 64)
	return err == nil && set&(1<<unix.CAP_SYS_ADMIN) != 0
}

func effectiveUID(status string) uint32 {
	uid, _ := strconv.ParseUint(statusField(status, "Uid:", 1), 10, 32)
	return uint32(uid)
}

// statusField returns a word of a line of /proc/<pid>/status, "" if there is none. A negative index counts from the
// end.
func statusField(status, key string, i int) string {
	for line := range strings.Lines(status) {
		if rest, ok := strings.CutPrefix(line, key); ok {
			words := strings.Fields(rest)
			if i < 0 {
				i += len(words)
			}
			if i >= 0 && i < len(words) {
				return words[i]
			}
		}
	}
	return ""
}
