package translate

import (
	"errors"
	"math"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// amount is a number, or no limit.
type amount struct {
	n         uint64
	unlimited bool
}

// pageSize is the unit of the kernel's page counters, in bytes.
var pageSize = uint64(unix.Getpagesize())

// unlimitedV1 is what a page counter without a limit shows on v1, in bytes (PAGE_COUNTER_MAX, linux/page_counter.h).
func unlimitedV1() uint64 { return math.MaxInt64 / pageSize * pageSize }

// pages rounds a limit down to pages, as page_counter_memparse does (mm/page_counter.c).
func pages(v hierarchy.Value) amount {
	n, unlimited := v.Number()
	n = n / pageSize * pageSize
	return amount{n, unlimited || n >= unlimitedV1()}
}

// v1 shows an amount as a page counter of v1 does.
func (a amount) v1() string {
	if a.unlimited {
		return decimal(unlimitedV1())
	}
	return decimal(a.n)
}

// v2 is the amount as v2 reads and shows it.
func (a amount) v2() string {
	if a.unlimited {
		return "max"
	}
	return decimal(a.n)
}

// above reports that an amount is more than another.
func (a amount) above(b amount) bool { return !b.unlimited && (a.unlimited || a.n > b.n) }

// plus adds amounts. Without a limit in one there is none in the sum.
func (a amount) plus(b amount) amount { return amount{a.n + b.n, a.unlimited || b.unlimited} }

// minus subtracts a lesser amount from one with a limit.
func (a amount) minus(b amount) amount { return amount{n: a.n - min(a.n, b.n)} }

func decimal(n uint64) string { return strconv.FormatUint(n, 10) }

// amountIn reads an amount from a control file of v2, in the file's own unit.
func amountIn(c Cgroup, file string) (amount, error) {
	s, err := c.Read(file)
	if err != nil {
		return amount{}, err
	}
	return parseAmount(strings.TrimSpace(s))
}

// parseAmount parses a number of v2. EIO for any other text.
func parseAmount(s string) (amount, error) {
	if s == "max" {
		return amount{unlimited: true}, nil
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return amount{}, unix.EIO
	}
	return amount{n: n, unlimited: n >= unlimitedV1()}, nil
}

// numberIn reads a number from a control file.
func numberIn(c Cgroup, file string) (uint64, error) {
	a, err := amountIn(c, file)
	return a.n, err
}

// keyed is a flat keyed file: a line for each key.
type keyed map[string]uint64

// keyedIn reads a flat keyed file. A line of another form is left out.
func keyedIn(c Cgroup, file string) (keyed, error) {
	s, err := c.Read(file)
	if err != nil {
		return nil, err
	}
	k := keyed{}
	for line := range strings.Lines(s) {
		name, text, _ := strings.Cut(strings.TrimSpace(line), " ")
		if n, err := strconv.ParseUint(text, 10, 64); err == nil {
			k[name] = n
		}
	}
	return k, nil
}

// countAbove reads a number that only grows less what it was when the guest set it back, which Keep has.
func (f file) countAbove(n uint64) (uint64, error) {
	kept, err := f.Kept(f.name)
	if err != nil || kept == "" {
		return n, err
	}
	before, err := strconv.ParseUint(kept, 10, 64)
	if err != nil {
		return n, nil
	}
	return n - min(n, before), nil
}

// onHost returns the name of a host's file, in which '*' stands for what it does in this one's.
func (f file) onHost(name string) string { return strings.Replace(name, "*", f.star, 1) }

// moving follows the name of the file under which a write that changes several keeps what it began from.
const moving = ".moving"

// begun returns what a write began from that stopped in the middle and is done again, "" for one that is new.
func (f file) begun() (string, error) { return f.Kept(f.name + moving) }

// together changes several of the host's files, each a name and a value, in order. If the host refuses one, all are as
// before, by undo. from is what begun returns after a stop in the middle.
func (f file) together(from string, changes, undo [][2]string) error {
	if err := f.Keep(f.name+moving, from); err != nil {
		return err
	}
	for _, c := range changes {
		if err := f.Write(c[0], c[1]); err != nil {
			for _, u := range undo {
				err = errors.Join(err, f.Write(u[0], u[1]))
			}
			return errors.Join(err, f.Keep(f.name+moving, ""))
		}
	}
	return f.Keep(f.name+moving, "")
}

// keepWith keeps what the guest wrote, and then writes what it means for the host. If the host refuses that, what was
// kept before is again: what cannot be kept changes nothing on the host.
func (f file) keepWith(value, host, means string) error {
	before, err := f.Kept(f.name)
	if err != nil {
		return err
	}
	if err := f.Keep(f.name, value); err != nil {
		return err
	}
	if err := f.Write(host, means); err != nil {
		return errors.Join(err, f.Keep(f.name, before))
	}
	return nil
}

// line ends a value with a newline.
func line(s string) string { return s + "\n" }

// The rows whose file is the same on both sides, is a constant, or is kept and has no effect.

func readSame(host string) func(file) (string, error) {
	return func(f file) (string, error) { return f.Read(f.onHost(host)) }
}

func writeSame(host string) func(file, hierarchy.Value) error {
	return func(f file, v hierarchy.Value) error { return f.Write(f.onHost(host), string(v.Canonical())) }
}

func constant(s string) func(file) (string, error) {
	return func(file) (string, error) { return line(s), nil }
}

// only accepts the value that is there.
func only(s string, other unix.Errno) func(file, hierarchy.Value) error {
	return func(_ file, v hierarchy.Value) error {
		if string(v.Canonical()) == s {
			return nil
		}
		return other
	}
}

// readKept reads what the guest has written, or a default.
func readKept(standard string) func(file) (string, error) {
	return func(f file) (string, error) {
		s, err := f.Kept(f.name)
		if s == "" {
			s = standard
		}
		return line(s), err
	}
}

// keepFlag keeps 0 for 0, and 1 for any other number, as flags of v1 do.
func keepFlag(f file, v hierarchy.Value) error {
	if n, _ := v.Number(); n == 0 {
		return f.Keep(f.name, "")
	}
	return f.Keep(f.name, "1")
}
