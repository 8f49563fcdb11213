package guest

import (
	"os"
	"strings"

	"github.com/vcgroupfs/vcgroupfs/policy"
)

// procCgroups is /proc/cgroups as a guest sees it: permitted controllers only, and no number of the host's cgroups.
func procCgroups(p *policy.Policy) string {
	raw, err := os.ReadFile("/proc/cgroups")
	if err != nil {
		return ""
	}
	return filterCgroups(string(raw), p.Permits)
}

// filterCgroups keeps the lines of /proc/cgroups ("name hierarchy num_cgroups enabled") for which permits holds, each with
// one cgroup.
func filterCgroups(text string, permits func(string) bool) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		switch {
		case strings.HasPrefix(line, "#"):
			b.WriteString(line)
		case len(f) == 4 && (permits(f[0]) || f[0] == "blkio" && permits("io") && f[1] == "0"):
			f[2] = "1"
			b.WriteString(strings.Join(f, "\t") + "\n")
		}
	}
	return b.String()
}
