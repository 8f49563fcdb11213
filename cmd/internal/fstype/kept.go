package fstype

import (
	"fmt"
	"maps"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// keptName begins the names of kept descriptors. The number is that of the programs and maps as this program has them:
// another version's are not gone on with.
const keptName = "type-1-"

// Kept are the descriptors that have the programs outlive this process, by names for Take.
func (p *Programs) Kept() map[string]int {
	kept := map[string]int{keptName + viewsName: p.views.FD(), keptName + guestsName: p.guests.FD()}
	for i, l := range p.links {
		if f, ok := l.(interface{ FD() int }); ok {
			kept[fmt.Sprintf("%s%d-of-%d", keptName, i, len(p.links))] = f.FD()
		}
	}
	return kept
}

// IsKept says whether a name may be one of Kept, of this version or another.
func IsKept(name string) bool { return strings.HasPrefix(name, "type-") }

// Take goes on with what an earlier process kept. It takes the descriptors over, and closes them where it fails:
// something is missing, or is of another version.
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
		if *m, err = takeMap(rest, spec); err != nil {
			return nil, err
		}
	}
	n := len(kept) - 2
	for i := range n {
		fd, err := taken(rest, fmt.Sprintf("%s%d-of-%d", keptName, i, n))
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

// taken takes a descriptor out of those that are kept.
func taken(kept map[string]int, name string) (int, error) {
	fd, ok := kept[name]
	if !ok {
		return -1, fmt.Errorf("%s was not kept", name)
	}
	delete(kept, name)
	return fd, nil
}

func takeMap(kept map[string]int, spec *ebpf.MapSpec) (*ebpf.Map, error) {
	fd, err := taken(kept, keptName+spec.Name)
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

// check says whether the kernel has the programs attached, on the functions on which this version has them.
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

// attached is the name of the program of a link, which must be one to a function of the kernel.
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
