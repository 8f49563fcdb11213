package fstype

import (
	"fmt"
	"maps"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// keptName begins the names of kept descriptors. Its number is the version of the programs and maps: descriptors of
// another version are not reused.
const keptName = "type-1-"

// Kept returns the descriptors that let the programs outlive this process, by their names for Take.
func (p *Programs) Kept() map[string]int {
	kept := map[string]int{keptName + viewsName: p.views.FD(), keptName + guestsName: p.guests.FD()}
	for i, l := range p.links {
		if f, ok := l.(interface{ FD() int }); ok {
			kept[fmt.Sprintf("%s%d-of-%d", keptName, i, len(p.links))] = f.FD()
		}
	}
	return kept
}

// IsKept reports that a name may be one of Kept, of this version or another.
func IsKept(name string) bool { return strings.HasPrefix(name, "type-") }

// Take reuses the programs that an earlier process kept. It takes over the descriptors, and closes them on an error:
// one is missing, or is of another version.
func Take(kept map[string]int) (p *Programs, err error) {
	rest := maps.Clone(kept)
	p = &Programs{}
	defer func() {
		for _, fd := range rest {
			unix.Close(fd)
		}
		if err != nil {
			p.Close()
			err = fmt.Errorf("cannot go on with the programs of statfs: %w", err)
		}
	}()
	for spec, m := range map[*ebpf.MapSpec]**ebpf.Map{viewsSpec(): &p.views, guestsSpec(): &p.guests} {
		if *m, err = popMap(rest, spec); err != nil {
			return nil, err
		}
	}
	n := len(kept) - 2
	for i := range n {
		fd, err := popFD(rest, fmt.Sprintf("%s%d-of-%d", keptName, i, n))
		if err != nil {
			return nil, err
		}
		l, err := link.NewFromFD(fd)
		if err != nil {
			return nil, err
		}
		p.links = append(p.links, l)
	}
	return p, p.check()
}

// popFD removes a descriptor from the kept ones.
func popFD(kept map[string]int, name string) (int, error) {
	fd, ok := kept[name]
	if !ok {
		return -1, fmt.Errorf("%s was not kept", name)
	}
	delete(kept, name)
	return fd, nil
}

func popMap(kept map[string]int, spec *ebpf.MapSpec) (*ebpf.Map, error) {
	fd, err := popFD(kept, keptName+spec.Name)
	if err != nil {
		return nil, err
	}
	m, err := ebpf.NewMapFromFD(fd)
	if err != nil {
		return nil, err
	}
	if err := spec.Compatible(m); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

// check checks that the kernel has programs of ours attached, as many as this version needs.
func (p *Programs) check() error {
	if len(p.links) < leastLinks {
		return fmt.Errorf("only %d programs are attached", len(p.links))
	}
	for _, l := range p.links {
		name, err := attached(l)
		if err != nil {
			return err
		}
		if !strings.HasPrefix(name, programPrefix) {
			return fmt.Errorf("program %s is none of them", name)
		}
	}
	return nil
}

// attached returns the name of a link's program. The link must be to a function of the kernel.
func attached(l link.Link) (string, error) {
	info, err := l.Info()
	if err != nil {
		return "", err
	}
	if info.Type != link.TracingType {
		return "", fmt.Errorf("a link of type %d is none of them", info.Type)
	}
	prog, err := ebpf.NewProgramFromID(info.Program)
	if err != nil {
		return "", err
	}
	defer prog.Close()
	about, err := prog.Info()
	if err != nil {
		return "", err
	}
	return about.Name, nil
}
