package spec

import (
	"strings"
	"testing"
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
