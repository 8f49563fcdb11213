package run

import "github.com/vcgroupfs/vcgroupfs/hierarchy/host"

// limitNames are files of limits by their names on v2 and on v1: who has read of one version has the other's host. Values differ, too.
var limitNames = [][2]string{
	{"memory.max", "memory.limit_in_bytes"},
	{"memory.low", "memory.soft_limit_in_bytes"},
	{"memory.swap.max", "memory.memsw.limit_in_bytes"},
	{"cpu.max", "cpu.cfs_quota_us"},
	{"cpu.weight", "cpu.shares"},
	{"io.weight", "blkio.weight"},
}

// nameHere is the name that this host has for a file of a limit that it does not know by the given name, "" for none.
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
