package fs

import (
	"errors"
	"path"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Denial is something that the guest was refused by the view's rules, not by the host.
type Denial struct {
	Quota     bool   // a bound was reached
	UID       uint32 // of the caller, the host's number
	Tid       uint32 // of the calling thread, in the server's pid namespace; 0 when it is not visible there
	Operation string
	Rule      string // which rule refused
	// Path is the path in the view, found when it is asked for: that costs a look at the host.
	Path func() string
	// Stranger says whether the caller is outside the guest's boundary. It costs a look at /proc.
	Stranger func() bool
}

// refusal is an errno together with the rule that made it.
type refusal struct {
	errno unix.Errno
	rule  string
	quota bool
}

func (r *refusal) Error() string { return r.errno.Error() + ": " + r.rule }

// Unwrap is the errno, which is what the guest gets.
func (r *refusal) Unwrap() error { return r.errno }

func refuse(errno unix.Errno, rule string) error { return &refusal{errno: errno, rule: rule} }

func refuseQuota(errno unix.Errno, bound string) error {
	return &refusal{errno: errno, rule: bound, quota: true}
}

// isQuota says whether an error is that a bound was reached.
func isQuota(err error) bool {
	var refused *refusal
	return errors.As(err, &refused) && refused.quota
}

// deny reports what a rule refused. name is in the directory n, "" for n itself.
func (v *View) deny(in *fuse.InHeader, operation string, n node, name, rule string) {
	v.tell(Denial{UID: in.Uid, Tid: in.Pid, Operation: operation, Rule: rule}, n, name)
}

// exceeded reports that a bound was reached.
func (v *View) exceeded(in *fuse.InHeader, operation string, n node, name, bound string) {
	v.tell(Denial{Quota: true, UID: in.Uid, Tid: in.Pid, Operation: operation, Rule: bound}, n, name)
}

// tell reports a denial of something in, or at, n.
func (v *View) tell(x Denial, n node, name string) {
	if v.denied == nil {
		return
	}
	x.Path = func() string { return v.pathIn(n, name) }
	x.Stranger = func() bool { return v.stranger(x.Tid) }
	v.denied(x)
}

// pathIn is a path in the view, for messages.
func (v *View) pathIn(n node, name string) string {
	if n.hier == nil {
		return path.Join("/", name)
	}
	at := "?"
	if d, err := n.hier.acquire(n.dir); err == nil {
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
