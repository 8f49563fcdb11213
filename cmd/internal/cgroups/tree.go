package cgroups

import (
	"bytes"
	"cmp"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
	"github.com/vcgroupfs/vcgroupfs/hierarchy/host"
)

// maxProcesses bounds the processes that one Tree lists. A process in several cgroups counts in each.
const maxProcesses = 50_000

// node is a cgroup of a growing tree.
type node struct {
	Cgroup
	pids     map[int]bool
	children map[string]*node
}

// treeMaker merges the hierarchies of a guest.
type treeMaker struct {
	nodes     map[string]*node // by path
	processes int              // listed
	commands  map[int]string   // "" for a process that has ended
}

// Tree returns a guest's cgroups, with their figures and processes. It merges all hierarchies by path. The leaf of a v2
// boundary is part of "/", as the guest sees it. Tree lists 10,000 cgroups, 100 levels and 50,000 processes at most,
// and marks a cgroup with unlisted ones as Cut. fault.NotFound if no boundary is left, fault.Failed if the host cannot
// be read.
func Tree(bs []*host.Boundary) (Cgroup, error) {
	m := treeMaker{nodes: map[string]*node{}, commands: map[int]string{}}
	m.node("")
	for _, b := range bs {
		t := b.Hierarchy()
		err := walk(b, func(c cgroup) bool { return m.visit(t, c) }, func(at string) { m.nodes[at].Cut = true })
		if err != nil && !gone(err) {
			return Cgroup{}, fault.New(fault.Failed,
				"cannot list the guest's cgroups in the hierarchy %s: %v: try again", t, err)
		}
	}
	if len(m.nodes[""].Hierarchies) == 0 {
		return Cgroup{}, fault.New(fault.NotFound,
			"cannot list the guest's cgroups: its boundary is gone: remove the guest")
	}
	tree, _ := m.finish(m.nodes[""])
	return tree, nil
}

// visit adds a cgroup of one hierarchy.
func (m *treeMaker) visit(t *host.Hierarchy, c cgroup) bool {
	found, err := pids(c.dir)
	if err != nil {
		// Removed meanwhile.
		return false
	}
	n := m.node(c.path)
	if n == nil {
		return false
	}
	for _, pid := range found {
		switch {
		case n.pids[pid]:
		case m.processes == maxProcesses:
			n.Cut = true
		case m.command(pid) != "":
			n.pids[pid] = true
			m.processes++
		}
	}
	// The boundary's figures include the leaf's.
	if !c.leaf {
		n.Hierarchies = append(n.Hierarchies, t.String())
		fill(&n.Figures, t, c.dir)
	}
	return true
}

// node returns the cgroup at a path, or nil if there are too many.
func (m *treeMaker) node(at string) *node {
	if n := m.nodes[at]; n != nil {
		return n
	}
	n := &node{pids: map[int]bool{}, children: map[string]*node{}}
	n.Name, n.Figures, n.Hierarchies = "/", noFigures(), []string{}
	if at != "" {
		above := path.Dir(at)
		if above == "." {
			above = ""
		}
		if len(m.nodes) > maxCgroups {
			m.nodes[above].Cut = true
			return nil
		}
		n.Name = path.Base(at)
		m.nodes[above].children[n.Name] = n
	}
	m.nodes[at] = n
	return n
}

// command returns the name of a process, "" if it has ended.
func (m *treeMaker) command(pid int) string {
	name, ok := m.commands[pid]
	if !ok {
		raw, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/comm")
		name = string(bytes.TrimSuffix(raw, []byte{'\n'}))
		if name == "" && len(raw) > 0 {
			// A process may have an empty name.
			name = "?"
		}
		m.commands[pid] = name
	}
	return name
}

// finish sorts a cgroup and all below it, counts, and returns the processes at and below it.
func (m *treeMaker) finish(n *node) (Cgroup, map[int]bool) {
	n.Processes, n.Children = []Process{}, []Cgroup{}
	for pid := range n.pids {
		n.Processes = append(n.Processes, Process{Pid: pid, Command: m.commands[pid]})
	}
	slices.SortFunc(n.Processes, func(a, b Process) int { return cmp.Compare(a.Pid, b.Pid) })
	n.Cgroups = 0
	all := n.pids
	for _, name := range slices.Sorted(maps.Keys(n.children)) {
		child, below := m.finish(n.children[name])
		n.Cgroups += 1 + child.Cgroups
		n.Children = append(n.Children, child)
		if len(below) > len(all) {
			all, below = below, all
		}
		maps.Copy(all, below)
	}
	n.Figures.Processes = int64(len(all))
	return n.Cgroup, all
}

// CountProcesses counts the processes of a guest, each once. It reads every cgroup's list.
func CountProcesses(bs []*host.Boundary) int64 {
	all := map[int]bool{}
	for _, b := range bs {
		walk(b, func(c cgroup) bool {
			found, err := pids(c.dir)
			for _, pid := range found {
				all[pid] = true
			}
			return err == nil
		}, nil)
	}
	return int64(len(all))
}
