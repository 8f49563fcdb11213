package daemon

import (
	"testing"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/attach"
)

// TestRecordStack: a record of a version before, which had a field that was true or absent, means what it meant there.
func TestRecordStack(t *testing.T) {
	for text, want := range map[string]attach.Stack{
		`{"spec": {"into": {"path": "/x"}}}`:                                     attach.StackNone,
		`{"spec": {"into": {"path": "/x", "stack": true}}}`:                      attach.StackAll,
		`{"spec": {"into": {"path": "/x"}}, "stacksOwn": true}`:                  attach.StackOwn,
		`{"spec": {"into": {"path": "/x", "stack": false}}}`:                     attach.StackNone,
		`{"spec": {"into": {"path": "/x", "stack": true}}, "stacksOwn": true}`:   attach.StackAll,
		`{"spec": {"into": {"path": "/x", "stack": false}}, "stacksOwn": true}`:  attach.StackNone,
		`{"spec": {"into": {"path": "/x", "tmpfs": true, "procCgroups": true}}}`: attach.StackNone,
	} {
		r, _ := decode([]byte(text))
		if r.Spec.Into == nil {
			t.Fatalf("%s: cannot be read", text)
		}
		if got := r.stack(); got != want {
			t.Errorf("%s: %d, want %d", text, got, want)
		}
	}
}
