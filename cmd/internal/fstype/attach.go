package fstype

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/fs/conn"
)

func load() (*Programs, error) {
	specs, cache, err := prepare()
	if err != nil {
		return nil, err
	}
	return attach(specs, cache)
}

// prepare makes the programs for this kernel.
func prepare() (specs []program, cache *btf.Cache, err error) {
	arch, err := thisArch()
	if err != nil {
		return nil, nil, err
	}
	if arch.name == "arm64" && !conn.KernelAtLeast(6, 0) {
		return nil, nil, errNotSupported
	}
	// Before Linux 5.11 programs and maps counted as locked memory of the process.
	if !conn.KernelAtLeast(5, 11) {
		unlimited := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
		_ = unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unlimited)
	}
	// Before reading the kernel's types, which takes much longer.
	if err := permitted(); err != nil {
		return nil, nil, err
	}
	// Opening /dev/fuse loads the module fuse on a kernel that has it. Only then does the kernel have its types.
	if fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0); err == nil {
		unix.Close(fd)
	}
	cache = btf.NewCache()
	kernel, err := kernelTypes(cache)
	if err != nil {
		return nil, nil, err
	}
	specs, err = programsOf(arch, kernel)
	return specs, cache, err
}

// verify loads each program, so that the kernel's verifier checks it, and attaches none.
func verify(specs []program, cache *btf.Cache) error {
	shared, err := newMaps()
	if err != nil {
		return err
	}
	defer shared.close()
	for _, s := range specs {
		c, err := s.load(shared, cache)
		if err == nil {
			c.Close()
		} else if !s.optional || errors.Is(err, unix.EPERM) {
			return fmt.Errorf("cannot follow the kernel's %s: %w", s.spec.AttachTo, err)
		}
	}
	return nil
}

// permitted loads a program that only calls bpf_probe_write_user, which a locked-down kernel refuses. It attaches
// nothing.
func permitted() error {
	code := asm.Instructions{
		asm.Mov.Imm(asm.R0, 0), asm.StoreMem(asm.RFP, slotType, asm.R0, asm.DWord),
		asm.Mov.Imm(asm.R1, 0), asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, slotType), asm.Mov.Imm(asm.R3, 8),
		asm.FnProbeWriteUser.Call(), asm.Return(),
	}
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: programPrefix + "probe", Type: ebpf.RawTracepoint, License: license, Instructions: code,
	})
	var verifier *ebpf.VerifierError
	// The verifier then knows no such function (bpf_base_func_proto and its like).
	if errors.As(err, &verifier) {
		return fmt.Errorf("%w: %w", errLocked, err)
	}
	if err != nil {
		return fmt.Errorf("cannot load a program that writes to a process's memory: %w", err)
	}
	return p.Close()
}

// attach attaches programs in order. They may start to run in that order, so those that consume notes come before the
// one that leaves them.
func attach(specs []program, cache *btf.Cache) (p *Programs, err error) {
	p = &Programs{}
	defer func() {
		if err != nil {
			p.Close()
		}
	}()
	shared, err := newMaps()
	if err != nil {
		return p, err
	}
	// The programs keep the maps.
	defer shared.close()
	if p.views, err = shared[viewsName].Clone(); err != nil {
		return p, err
	}
	if p.guests, err = shared[guestsName].Clone(); err != nil {
		return p, err
	}
	// A function that cannot be followed: without a program at its beginning, none may run at its end.
	without := ""
	for _, s := range specs {
		if s.spec.AttachTo == without {
			continue
		}
		l, err := attachOne(s, shared, cache)
		switch {
		case err == nil:
			p.links = append(p.links, l)
		case s.optional && !errors.Is(err, unix.EPERM):
			without = s.spec.AttachTo
		default:
			return p, fmt.Errorf("cannot follow the kernel's %s: %w", s.spec.AttachTo, err)
		}
	}
	return p, nil
}

// newMaps makes the maps shared by the programs.
func newMaps() (shared sharedMaps, err error) {
	shared = sharedMaps{}
	for _, m := range mapSpecs() {
		if shared[m.Name], err = ebpf.NewMap(m); err != nil {
			delete(shared, m.Name)
			shared.close()
			return nil, fmt.Errorf("cannot make the map %s: %w", m.Name, err)
		}
	}
	return shared, nil
}

type sharedMaps map[string]*ebpf.Map

func (s sharedMaps) close() {
	for _, m := range s {
		m.Close()
	}
}

const programName = "program"

// load loads a program with the shared maps.
func (s program) load(shared sharedMaps, cache *btf.Cache) (*ebpf.Collection, error) {
	used := map[string]*ebpf.MapSpec{}
	replace := map[string]*ebpf.Map{}
	for _, m := range mapSpecs() {
		if slices.Contains(s.maps, m.Name) {
			used[m.Name], replace[m.Name] = m, shared[m.Name]
		}
	}
	spec := &ebpf.CollectionSpec{Maps: used, Programs: map[string]*ebpf.ProgramSpec{programName: s.spec}}
	return ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: replace, Cache: cache})
}

func attachOne(s program, shared sharedMaps, cache *btf.Cache) (link.Link, error) {
	c, err := s.load(shared, cache)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if s.spec.Type == ebpf.LSM {
		return link.AttachLSM(link.LSMOptions{Program: c.Programs[programName]})
	}
	return link.AttachTracing(link.TracingOptions{Program: c.Programs[programName], AttachType: s.spec.AttachType})
}
