package daemon

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
)

// TestRecord: a guest's record is read as it was written, and its keys are those of the versions before.
func TestRecord(t *testing.T) {
	stack := true
	want := record{
		Name: "web", Spec: api.GuestSpec{Pid: 7, Target: "/t", Into: &api.Into{Path: "/x", Stack: &stack}},
		Since: time.Unix(1e9, 0).UTC(), UID: 1, GID: 2, Boundaries: []boundaryID{{"pids", 3, "/a"}}, PidStart: 4,
		Rule: "/lxc/*", Maker: &api.Maker{By: api.ByHook, Of: "/b"}, StacksOwn: true, Declared: true,
	}
	raw, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	got, self := decode(raw)
	if self != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v; want %+v", got, self, want)
	}
	const keys = `{"name":"web","spec":{"pid":7,"target":"/t","into":{"path":"/x","stack":true}},"since":"2001-09-09T01:46:40Z",` +
		`"declared":true,"uid":1,"gid":2,"boundaries":[{"tree":"pids","id":3,"path":"/a"}],"pidStart":4,"rule":"/lxc/*",` +
		`"maker":{"by":"hook","of":"/b"},"stacksOwn":true}`
	if string(raw) != keys {
		t.Errorf("%s\nwant\n%s", raw, keys)
	}
	if got.label() != "the view of guest web at /t" {
		t.Error(got.label())
	}
	for _, text := range []string{"", "{", "[]", "null", `{"name": 1}`} {
		if r, self := decode([]byte(text)); self != nil || r.Name != "" {
			t.Errorf("%q: %+v, %v", text, r, self)
		}
	}
}

// TestSelfRecord: self's entry is read as it was written, and so is that of a version before, which wrote a guest's
// record. That version finds in ours what it needs.
func TestSelfRecord(t *testing.T) {
	want := selfRecord{target: "/run/self", spec: api.GuestSpec{Controllers: []string{"pids"}, Policy: "version: 1\n"},
		since: time.Unix(1e9, 0).UTC()}
	raw, err := want.encode()
	if err != nil {
		t.Fatal(err)
	}
	before := `{"name":"","spec":{"target":"/run/self","controllers":["pids"],"policy":"version: 1\n"},` +
		`"since":"2001-09-09T01:46:40Z","uid":0,"gid":0,"boundaries":null,"self":true}`
	for _, text := range []string{string(raw), before} {
		r, got := decode([]byte(text))
		if got == nil || !reflect.DeepEqual(*got, want) || r.Name != "" {
			t.Errorf("%s: %+v, %+v", text, got, r)
		}
	}
	var old struct {
		Self bool          `json:"self"`
		Spec api.GuestSpec `json:"spec"`
	}
	if err := json.Unmarshal(raw, &old); err != nil || !old.Self || old.Spec.Target != want.target || old.Spec.Policy == "" {
		t.Errorf("%s: %+v, %v", raw, old, err)
	}
	if strings.Contains(string(raw), "name") || want.label() != "self at /run/self" {
		t.Error(string(raw), want.label())
	}
}

// TestRecordMaker: who made a guest, also one of a version that did not say.
func TestRecordMaker(t *testing.T) {
	hook := &api.Maker{By: api.ByHook, Of: "/b"}
	for _, c := range []struct {
		r         record
		by        string
		makerless bool
	}{
		{record{}, "hand", true}, {record{Maker: hook}, "hook of /b", false}, {record{Declared: true}, "declared", false},
		{record{Rule: "/lxc/*"}, "self of /lxc/*", false}, {record{Maker: &api.Maker{}}, "hand", false},
	} {
		if got := c.r.maker().String(); got != c.by || c.r.makerless() != c.makerless {
			t.Errorf("%+v: %s, %v", c.r, got, c.r.makerless())
		}
	}
}

// TestBoundaryID: a boundary is the same under another path.
func TestBoundaryID(t *testing.T) {
	a := boundaryID{"pids", 1, "/a"}
	if !a.is(boundaryID{"pids", 1, "/moved"}) || a.is(boundaryID{"pids", 2, "/a"}) || a.is(boundaryID{"memory", 1, "/a"}) {
		t.Error("wrong")
	}
}
