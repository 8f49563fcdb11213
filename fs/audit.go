package fs

import (
	"errors"
	"path"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Denial reports a refusal by the view's own rules, not by the host.
type Denial struct {
	Quota     bool   // a bound was reached
	UID       uint32 // of the caller, the host's number
	Tid       uint32 // of the calling thread, in the server's pid namespace; 0 when it is not visible there
	Operation string
	Rule      string // the rule that refused
	// Path resolves the path in the view. It reads from the host.
	Path func() string
	// Stranger reports that the caller is outside the guest's boundary. It reads from /proc.
	Stranger func() bool
}

// refusal is an errno together with the rule behind it.
type refusal struct {
	errno unix.Errno
	rule  string
	quota bool
}

func (r *refusal) Error() string { return r.errno.Error() + ": " + r.rule }

// Unwrap returns the errno, the guest's answer.
func (r *refusal) Unwrap() error { return r.errno }

func refuse(errno unix.Errno, rule string) error { return &refusal{errno: errno, rule: rule} }

func refuseQuota(errno unix.Errno, bound string) error {
	return &refusal{errno: errno, rule: bound, quota: true}
}

// isQuota reports that an error means a reached bound.
func isQuota(err error) bool {
	var refused *refusal
	return errors.As(err, &refused) && refused.quota
}

// deny reports a refusal by a rule. name is in the directory n, or "" for n itself.
func (v *View) deny(in *fuse.InHeader, operation string, n node, name, rule string) {
	v.tell(Denial{UID: in.Uid, Tid: in.Pid, Operation: operation, Rule: rule}, n, name)
}

// exceeded reports a reached bound.
func (v *View) exceeded(in *fuse.InHeader, operation string, n node, name, bound string) {
	v.tell(Denial{Quota: true, UID: in.Uid, Tid: in.Pid, Operation: operation, Rule: bound}, n, name)
}

// tell passes a denial on, about n or a name in it.
func (v *View) tell(x Denial, n node, name string) {
	if v.denied == nil {
		return
	}
	x.Path = func() string { return v.pathIn(n, name) }
	x.Stranger = func() bool { return v.stranger(x.Tid) }
	v.denied(x)
}

// pathIn returns a path in the view, for messages.
func (v *View) pathIn(n node, name string) string {
	if n.hier == nil {
		return path.Join("/", name)
	}
	at := "?"
	if d, err := n.acquire(); err == nil {
		if rel, err := d.Path(); err == nil {
			at = rel
		}
		d.Release()
	}
	top := ""
	if n.hier.name != "" && v.several() {
		top = n.hier.name
	}
	return path.Join("/", top, at, n.file, name)
}
