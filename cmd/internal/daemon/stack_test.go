package daemon

import (
	"encoding/json"
	"testing"

	life "github.com/vcgroupfs/vcgroupfs/cmd/internal/guest"
)

// TestRecordStack: a record of a version before, which had a field that was true or absent, means what it meant there.
func TestRecordStack(t *testing.T) {
	for text, want := range map[string]life.Stack{
		`{"spec": {"into": {"path": "/x"}}}`:                                     life.StackNone,
		`{"spec": {"into": {"path": "/x", "stack": true}}}`:                      life.StackAll,
		`{"spec": {"into": {"path": "/x"}}, "stacksOwn": true}`:                  life.StackOwn,
		`{"spec": {"into": {"path": "/x", "stack": false}}}`:                     life.StackNone,
		`{"spec": {"into": {"path": "/x", "stack": true}}, "stacksOwn": true}`:   life.StackAll,
		`{"spec": {"into": {"path": "/x", "stack": false}}, "stacksOwn": true}`:  life.StackNone,
		`{"spec": {"into": {"path": "/x", "tmpfs": true, "procCgroups": true}}}`: life.StackNone,
	} {
		var r record
		if err := json.Unmarshal([]byte(text), &r); err != nil {
			t.Fatal(err)
		}
		if got := r.stack(); got != want {
			t.Errorf("%s: %d, want %d", text, got, want)
		}
	}
}
