package runtimes

import (
	"strings"
	"testing"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
)

// TestReadLXC: LXC's environment is a container; what LXC would not say is a wrong command line.
func TestReadLXC(t *testing.T) {
	for _, c := range []struct {
		name, kind, pid string
		want            int
		says            string
	}{
		{"web", "start-host", "7", 7, ""}, {"web", "post-stop", "7", 0, ""}, {"web", "post-stop", "", 0, ""},
		{"", "start-host", "7", 0, "LXC_NAME is not set"}, {"web", "", "7", 0, `LXC_HOOK_TYPE is ""`},
		{"web", "pre-start", "7", 0, `LXC_HOOK_TYPE is "pre-start"`}, {"web", "start-host", "", 0, `LXC_PID is ""`},
		{"web", "start-host", "0", 0, `LXC_PID is "0"`}, {"web", "start-host", "7x", 0, `LXC_PID is "7x"`},
	} {
		env := map[string]string{
			"LXC_NAME": c.name, "LXC_HOOK_TYPE": c.kind, "LXC_PID": c.pid, "LXC_CONFIG_FILE": "/var/lib/lxc/web/config",
		}
		got, err := readLXC(Input{Getenv: func(name string) string { return env[name] }})
		switch {
		case c.says == "" && (err != nil || got.ID != c.name || got.Pid != c.want || got.Of != env["LXC_CONFIG_FILE"]):
			t.Errorf("%+v: %+v, %v", c, got, err)
		case c.says != "" && (fault.Of(err) != fault.Invalid || !strings.Contains(err.Error(), c.says)):
			t.Errorf("%+v: %v", c, err)
		}
	}
}
