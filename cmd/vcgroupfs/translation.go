package main

import (
	"fmt"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/translate"
)

// translation says what stands for a control file on a host that has only the other version of cgroup. It is part of a
// line of "policy explain --json".
type translation struct {
	HostVersion int    `json:"hostVersion"`
	HostFile    string `json:"hostFile,omitempty"` // empty where the file needs none
	Formula     string `json:"formula,omitempty"`
	Lost        string `json:"lost,omitempty"`   // the difference from a host that has the file
	Absent      string `json:"absent,omitempty"` // why the file is not shown; then the three above are empty
}

// translationOf returns the translation of a control file of the version shown, nil for one that has no row.
func translationOf(shown hierarchy.Version, file string) *translation {
	row, ok := translate.RowOf(shown, file)
	if !ok {
		return nil
	}
	host := hierarchy.V2
	if shown == hierarchy.V2 {
		host = hierarchy.V1
	}
	return &translation{int(host), row.HostFile(file), row.Says, row.Lost, row.Absent}
}

// String gives the translation in one line: v1 on a v2 host: cpu.weight: the formula; lost: the difference.
func (t *translation) String() string {
	where := "v1 on a v2 host"
	if hierarchy.Version(t.HostVersion) == hierarchy.V1 {
		where = "v2 on a v1 host"
	}
	if t.Absent != "" {
		return where + ": not shown: " + t.Absent
	}
	if t.HostFile != "" {
		where += ": " + t.HostFile
	}
	if t.Lost != "" {
		return fmt.Sprintf("%s: %s; lost: %s", where, t.Formula, t.Lost)
	}
	return where + ": " + t.Formula
}
