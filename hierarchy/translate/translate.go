// Package translate says what stands for the control files of one version of cgroup on a host that has the other: a
// row for each file, with the formula that reads and writes it. It does no I/O of its own.
package translate

import (
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// Cgroup is a cgroup of the host, below the guest's boundary or the boundary itself. Errors are the host's.
type Cgroup interface {
	// Read returns the content of a control file.
	Read(file string) (string, error)
	// Write writes a value, whole and unchanged.
	Write(file, value string) error
	// Kept returns what the guest has written to the file shown under this name, "" for nothing.
	Kept(name string) (string, error)
	// Keep stores it, across restarts of the server; "" removes it.
	Keep(name, value string) error
	// Above returns the cgroup above. False at the boundary: what the host has set further up is not the guest's.
	Above() (Cgroup, bool)
	// Below returns the cgroups directly below.
	Below() ([]Cgroup, error)
}

// Row says what stands for a control file, or with '*' in its name for many of one kind.
type Row struct {
	Version hierarchy.Version // of the file that is shown
	Name    string
	Host    string // the host's control file without which the row does not hold, "" for none; '*' is that of Name
	Says    string // the formula, for people
	Lost    string // the differences from a host that has the file, "" for none
	Absent  string // the reason why the file is not shown, "" for one that is
	Keeps   bool   // a write stores something by Cgroup.Keep
	Sums    bool   // a write, or a read of a statistic, looks at each cgroup below, of which there can be thousands

	read  func(f file) (string, error)
	write func(f file, v hierarchy.Value) error
}

// file is a control file that is shown.
type file struct {
	Cgroup
	name string
	star string // what '*' of the row's name stands for
}

// Lookup finds the row of a control file of the version shown. False for a name without a row, and for one that is
// absent.
func Lookup(shown hierarchy.Version, name string) (*Row, bool) {
	r, ok := RowOf(shown, name)
	if !ok || r.Absent != "" {
		return nil, false
	}
	return r, true
}

// RowOf finds the row of a control file of the version shown, also the row of one that is absent. False for a name
// without a row.
func RowOf(shown hierarchy.Version, name string) (*Row, bool) {
	known, ok := hierarchy.Lookup(shown, name)
	if !ok {
		return nil, false
	}
	i, ok := byName[rowKey{shown, known.Name}]
	if !ok {
		return nil, false
	}
	return &rows[i], true
}

// Rows lists all rows, v1 first. Callers must not change it.
func Rows() []Row { return rows[:len(rows):len(rows)] }

// rows are all rows, with their version.
var rows = slices.Concat(
	withVersion(hierarchy.V1, v1Rows), sharedRows(hierarchy.V1),
	withVersion(hierarchy.V2, v2Rows), sharedRows(hierarchy.V2),
)

// sharedRows are those of controllers whose files are the same in both versions.
func sharedRows(v hierarchy.Version) (rows []Row) {
	for _, f := range hierarchy.Table() {
		if f.Version != v || f.RootOnly() || !hierarchy.SharedController(f.Controller) {
			continue
		}
		r := Row{Version: v, Name: f.Name, Host: f.Name, Says: "the same", read: readSame(f.Name)}
		if f.Mode&0o222 != 0 {
			r.write = writeSame(f.Name)
		}
		rows = append(rows, r)
	}
	return rows
}

// byName finds a row by the name of the row of hierarchy's table.
var byName = index(rows)

type rowKey struct {
	version hierarchy.Version
	name    string
}

func index(rows []Row) map[rowKey]int {
	at := map[rowKey]int{}
	for i, r := range rows {
		at[rowKey{r.Version, r.Name}] = i
	}
	return at
}

func withVersion(v hierarchy.Version, rows []Row) []Row {
	for i := range rows {
		rows[i].Version = v
	}
	return rows
}

// star returns what '*' stands for in a name that the row is of, "" in a row without.
func (r *Row) star(name string) string {
	before, after, _ := strings.Cut(r.Name, "*")
	return strings.TrimSuffix(strings.TrimPrefix(name, before), after)
}

// HostFile returns the name of the host's control file without which this one is not there, "" for none.
func (r *Row) HostFile(name string) string {
	return strings.Replace(r.Host, "*", r.star(name), 1)
}

// Writes reports that the control file can be written.
func (r *Row) Writes() bool { return r.write != nil }

// Many reports a row of many files.
func (r *Row) Many() bool { return strings.Contains(r.Name, "*") }

// Shown returns the name of the control file that is there with a host's control file. Not ok for one that the row does
// not stand on.
func (r *Row) Shown(host string) (name string, ok bool) {
	before, after, many := strings.Cut(r.Host, "*")
	rest, begins := strings.CutPrefix(host, before)
	star, ends := strings.CutSuffix(rest, after)
	if !many || !begins || !ends || star == "" {
		return "", false
	}
	return strings.Replace(r.Name, "*", star, 1), true
}

// Read returns the content of the control file shown. EINVAL for one that cannot be read, as the kernel answers.
func (r *Row) Read(c Cgroup, name string) ([]byte, error) {
	if r.read == nil {
		return nil, unix.EINVAL
	}
	s, err := r.read(file{c, name, r.star(name)})
	return []byte(s), err
}

// Write carries out a write to the control file shown. The errors are those of the kernel where it has the file: EINVAL
// and ERANGE for a value that is not of its grammar. A write that is done again after it stopped anywhere ends as one
// that was done once.
func (r *Row) Write(c Cgroup, name string, data []byte) error {
	if r.write == nil {
		return unix.EINVAL
	}
	known, ok := hierarchy.Lookup(r.Version, name)
	if !ok {
		return unix.EINVAL
	}
	v, err := known.Grammar.Parse(data)
	if err != nil {
		return err
	}
	return r.write(file{c, name, r.star(name)}, v)
}
