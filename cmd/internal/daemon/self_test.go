package daemon

import (
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/holder"
	"github.com/vcgroupfs/vcgroupfs/fs/self"
)

// keeper makes the keeper of self with these settings.
func (x *parts) keeper(settings *Self) *selfKeeper {
	all := struct {
		*table
		*making
		*removing
	}{x.table, x.making, x.removing}
	return &selfKeeper{cfg: selfConfig{settings: settings, paths: x.paths(), log: x.told().log, host: x.host, arena: x.arena,
		keepers: x.making.keepers, policies: x.policies, guests: all, panicked: func() {}, ended: func() {}}}
}

// TestSelfSettings: which settings of self are refused, and what a guest's spec has of the others.
func TestSelfSettings(t *testing.T) {
	x := newParts(t)
	_, controller := x.place(t)
	write(t, x.dir, "policy.yaml", "version: 1\n")
	spec, err := (&Self{Policy: x.dir + "/policy.yaml", Controllers: []string{controller}}).spec()
	if err != nil || spec.Policy != "version: 1\n" || len(spec.Controllers) != 1 {
		t.Errorf("%+v, %v", spec, err)
	}
	_, err = (&Self{Policy: x.dir + "/none"}).spec()
	wantFault(t, "no policy", err, "cannot read the policy of containers")
	for _, c := range []struct {
		containers []string
		spec       api.GuestSpec
		says       string
	}{
		{[]string{"/docker/{id}"}, spec, ""},
		{[]string{"docker"}, spec, "docker"},
		{[]string{"/docker/{id}"}, api.GuestSpec{Policy: "version: 9\n"}, "version"},
		{[]string{"/docker/{id}"}, api.GuestSpec{Controllers: []string{"name=none"}}, "this host does not have it"},
	} {
		s, err := newSelf(x.keeper(&Self{Path: x.dir + "/self", Containers: c.containers}).cfg, c.spec)
		wantFault(t, c.containers[0], err, c.says)
		if err == nil && (s.at.Target.String() != x.dir+"/self" || !s.own()) {
			t.Errorf("%v, %v", s.at.Target, s.own())
		}
	}
}

// TestFollowSelf: a failure is told once and tried again after a pause; without settings nothing is done.
func TestFollowSelf(t *testing.T) {
	x := newParts(t)
	none := x.keeper(nil)
	none.follow()
	none.suspend(t.Context())
	none.stop()
	k := x.keeper(&Self{Path: x.dir + "/none/self", Containers: []string{"/docker/{id}"}})
	k.follow()
	if log := x.log.since(); strings.Count(log, "cannot set up self; it is tried again") != 1 || k.retry.IsZero() {
		t.Error(log)
	}
	retry := k.retry
	k.follow()
	if !k.retry.Equal(retry) {
		t.Error("tried at once")
	}
	k.retry = time.Now().Add(-time.Millisecond)
	k.follow()
	if log := x.log.since(); log != "" || !k.retry.After(retry) {
		t.Errorf("a second failure: %s", log)
	}
	k.retry = time.Time{}
	x.close()
	k.follow()
	if !k.retry.IsZero() {
		t.Error("set up while closing")
	}
}

// TestResumeSelf: self of the worker before goes on where the settings still have it, is suspended or removed; else it
// ends.
func TestResumeSelf(t *testing.T) {
	x := newParts(t)
	_, controller := x.place(t)
	path := x.dir + "/self"
	if err := os.Mkdir(path, 0o555); err != nil {
		t.Fatal(err)
	}
	settings := &Self{Path: path, Containers: []string{"/docker/{id}"}}
	rec := &selfRecord{target: path, spec: api.GuestSpec{Controllers: []string{controller}}}
	for what, c := range map[string]struct {
		settings *Self
		spoil    func(held map[uint64]int)
		says     string
	}{
		"off":           {nil, nil, "it is not asked for any more"},
		"elsewhere":     {&Self{Path: "/x"}, nil, "it is not asked for any more"},
		"no connection": {settings, func(held map[uint64]int) { unix.Close(held[holder.DeviceKey]); delete(held, holder.DeviceKey) }, "it was being set up"},
		"a wrong rule":  {&Self{Path: path, Containers: []string{"x"}}, nil, "x"},
	} {
		r, held, _ := x.left(t, record{})
		if c.spoil != nil {
			c.spoil(held)
		}
		err := x.keeper(c.settings).resume(r, rec, held)
		wantFault(t, what, err, c.says)
		if len(held) > 0 || len(x.arena.Regions()) > 0 {
			t.Errorf("%s: %v", what, held)
		}
	}
	for _, end := range []func(*selfKeeper){(*selfKeeper).stop, func(k *selfKeeper) { k.suspend(t.Context()) }} {
		r, held, _ := x.left(t, record{})
		k := x.keeper(settings)
		if err := k.resume(r, rec, held); err != nil || len(held) > 0 {
			t.Fatal(err, held)
		}
		dir := k.dir
		k.follow()
		if k.dir != dir {
			t.Error("set up anew while it is served")
		}
		if out := dir.touched(1 << 30); out != self.Empty {
			t.Errorf("a task that is no more gets %v", out)
		}
		end(k)
		if k.dir == nil {
			if _, err := os.Stat(path); !os.IsNotExist(err) {
				t.Error("the directory is left")
			}
		}
	}
}
