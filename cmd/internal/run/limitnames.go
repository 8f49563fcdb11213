package run

import "github.com/vcgroupfs/vcgroupfs/hierarchy/host"

// limitNames are control files of limits by their names on v2 and on v1, for users with the documentation of the other
// version. Values differ, too.
var limitNames = [][2]string{
	{"memory.max", "memory.limit_in_bytes"},
	{"memory.low", "memory.soft_limit_in_bytes"},
	{"memory.swap.max", "memory.memsw.limit_in_bytes"},
	{"cpu.max", "cpu.cfs_quota_us"},
	{"cpu.weight", "cpu.shares"},
	{"io.weight", "blkio.weight"},
}

// nameHere returns the name on this host for a limit's control file that the host does not have, "" for none.
func nameHere(h *host.Host, file string) string {
	for _, pair := range limitNames {
		for i, name := range pair {
			if name == file && writableIn(h, pair[1-i]) != nil {
				return pair[1-i]
			}
		}
	}
	return ""
}
