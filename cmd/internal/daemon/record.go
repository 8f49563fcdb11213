package daemon

import (
	"encoding/json"
	"time"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/attach"
)

// record is a guest's entry in the arena. It is an ABI between two versions of the program.
type record struct {
	Name       string        `json:"name"`
	Spec       api.GuestSpec `json:"spec"`
	Since      time.Time     `json:"since"`
	Declared   bool          `json:"declared,omitempty"`
	UID        uint32        `json:"uid"`
	GID        uint32        `json:"gid"`
	Boundaries []boundaryID  `json:"boundaries"`
	PidStart   uint64        `json:"pidStart,omitempty"` // of Spec.Pid, to detect a reused number
	Rule       string        `json:"rule,omitempty"`     // of a guest by self: the pattern that its cgroup matches
	Maker      *api.Maker    `json:"maker,omitempty"`    // nil from older versions, or if other fields tell: see maker

	// StacksOwn attaches a view by StackOwn if its spec leaves Stack open. Older versions did not set it: they took away
	// the mounts at the view's target.
	StacksOwn bool `json:"stacksOwn,omitempty"`
}

// boundaryID names a boundary for good: its hierarchy and kernfs id.
type boundaryID struct {
	Tree string `json:"tree"`
	ID   uint64 `json:"id"`
	Path string `json:"path,omitempty"` // at the time the guest was added
}

// is reports that both name the same cgroup. The path does not count: it may change.
func (b boundaryID) is(other boundaryID) bool { return b.Tree == other.Tree && b.ID == other.ID }

// selfRecord is self's entry in the arena.
type selfRecord struct {
	target string        // self's mount point
	spec   api.GuestSpec // of the guests to add, without target
	since  time.Time
}

// selfEntry is the stored form of a selfRecord. It is an ABI, too: the keys are those of a guest's record, since all
// versions tell the two apart by "self" alone.
type selfEntry struct {
	Self  bool          `json:"self"`
	Spec  api.GuestSpec `json:"spec"` // Target is self's mount point
	Since time.Time     `json:"since"`
}

// encode returns the stored form.
func (r selfRecord) encode() ([]byte, error) {
	e := selfEntry{Self: true, Spec: r.spec, Since: r.since}
	e.Spec.Target = r.target
	return json.Marshal(e)
}

// decode reads an entry of the arena: self's, or else a guest's record, empty if this program cannot read it.
func decode(entry []byte) (r record, self *selfRecord) {
	var e struct {
		record
		Self bool `json:"self"`
	}
	switch err := json.Unmarshal(entry, &e); {
	case err != nil:
		return record{}, nil
	case !e.Self:
		return e.record, nil
	}
	self = &selfRecord{target: e.Spec.Target, spec: e.Spec, since: e.Since}
	self.spec.Target = ""
	return record{}, self
}

// label names the view in messages of processes that do not decode the record (state.Region.SetLabel).
func (r *record) label() string { return "the view of guest " + r.Name + " at " + r.Spec.Target }

func (r *selfRecord) label() string { return "self at " + r.target }

// maker returns the maker of a record's guest.
func (r record) maker() api.Maker { return api.MakerBy(r.Maker, r.Declared, r.Rule) }

// makerless reports that a version without makers added the guest: by hand, or for a container whose last hook is still
// to come.
func (r record) makerless() bool { return r.Maker == nil && !r.Declared && r.Rule == "" }

// stack chooses the treatment of the mounts at the view's target inside the guest.
func (r record) stack() attach.Stack {
	switch said := r.Spec.Into.Stack; {
	case said != nil && *said:
		return attach.StackAll
	case said == nil && r.StacksOwn:
		return attach.StackOwn
	}
	return attach.StackNone
}
