package spec

import (
	"strings"
	"testing"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
)

func TestNarrow(t *testing.T) {
	for _, c := range []struct {
		allowed string
		asked   string
		want    string
		fails   bool
	}{
		{"", "", "", false}, {"cpu,pids", "", "cpu,pids", false}, {"cpu,pids", "pids", "pids", false}, {"", "pids, cpu", "pids,cpu", false},
		{"cpu", "pids", "", true}, {"cpu", "cpu,pids", "", true}, {"cpu", ",", "", true},
	} {
		got, err := Narrow(ControllerNames(c.allowed), "x.y", c.asked)
		if strings.Join(got, ",") != c.want || (err != nil) != c.fails || err != nil && !strings.Contains(err.Error(), "x.y") {
			t.Errorf("%q out of %q: %v, %v", c.asked, c.allowed, got, err)
		}
	}
}

func TestPolicyOf(t *testing.T) {
	for _, c := range []struct {
		text, controllers string
		cpu, pids         bool // permitted
	}{
		{"", "", true, true}, {"", "pids", false, true},
		{"version: 1\ncontrollers: [cpu]\n", "", true, false}, {"version: 1\ncontrollers: [cpu, pids]\n", "pids", false, true},
	} {
		p, err := PolicyOf(c.text, ControllerNames(c.controllers))
		if err != nil || p.Permits("cpu") != c.cpu || p.Permits("pids") != c.pids {
			t.Errorf("%q, %q: %v, %v", c.text, c.controllers, p, err)
		}
	}
	if _, err := PolicyOf("version: 1\ncontrollers: 7\n", nil); fault.Of(err) != fault.BadPolicy {
		t.Errorf("%v, want the kind %v", err, fault.BadPolicy)
	}
	if _, err := PolicyOf("version: 1\ncontrollers: [cpu]\n", []string{"pids"}); err == nil || !strings.Contains(err.Error(), "pids") {
		t.Errorf("a controller that the policy does not permit: %v", err)
	}
}
