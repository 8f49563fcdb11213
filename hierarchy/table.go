package hierarchy

import (
	"slices"
	"strings"
)

// sharedControllers have the same files on both versions (their cftypes are .legacy_cftypes and .dfl_cftypes at once).
var sharedControllers = []string{"rdma", "misc", "dmem"}

// SharedController reports a controller that has the same files in both versions.
func SharedController(name string) bool { return slices.Contains(sharedControllers, name) }

// table is all rows, v1 first. An exact name precedes one with '*'.
var table = makeTable()

// byName finds a row by its exact name; families are those with '*', by version.
var byName, families = indexTable()

func makeTable() []ControlFile {
	var all []ControlFile
	add := func(v Version, f ControlFile) {
		f.Version = v
		all = append(all, f)
	}
	for _, f := range tableV1 {
		add(V1, f)
	}
	for _, f := range tableV2 {
		if slices.Contains(sharedControllers, f.Controller) {
			add(V1, f)
		}
	}
	for _, f := range tableV2 {
		add(V2, f)
	}
	return all
}

func indexTable() (exact [3]map[string]int, globs [3][]int) {
	for i, f := range table {
		if strings.Contains(f.Name, "*") {
			globs[f.Version] = append(globs[f.Version], i)
			continue
		}
		if exact[f.Version] == nil {
			exact[f.Version] = map[string]int{}
		}
		exact[f.Version][f.Name] = i
	}
	return exact, globs
}

// Table lists all known control files, v1 first. Callers must not change it.
func Table() []ControlFile { return table[:len(table):len(table)] }

// Lookup finds the row of a control file; false for a name without a row. It does not allocate.
func Lookup(v Version, name string) (ControlFile, bool) {
	if v != V1 && v != V2 {
		return ControlFile{}, false
	}
	if i, ok := byName[v][name]; ok {
		return table[i], true
	}
	for _, i := range families[v] {
		if covers(table[i].Name, name) {
			return table[i], true
		}
	}
	return ControlFile{}, false
}

// covers reports that a pattern with one '*', which stands for one or more bytes, matches a name. If the pattern
// leaves the controller open, it must be a known one.
func covers(pattern, name string) bool {
	before, after, _ := strings.Cut(pattern, "*")
	if len(name) <= len(before)+len(after) || !strings.HasPrefix(name, before) || !strings.HasSuffix(name, after) {
		return false
	}
	return before != "" || ControllerOf(name) != ""
}
