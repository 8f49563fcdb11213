// Package uring switches FUSE over io_uring on for tests. The switch is a parameter of the kernel's module, and so the
// whole machine's.
package uring

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

const parameter = "/sys/module/fuse/parameters/enable_uring"

// state keeps the parameter's first value while runs of tests, which may be several at once, hold it with a shared
// lock. guard is locked during a change.
const (
	state = "/tmp/vcgroupfs-tests-enable_uring"
	guard = state + ".lock"
)

// ErrUnsupported is of a kernel before Linux 6.14, or without CONFIG_FUSE_IO_URING.
var ErrUnsupported = errors.New("this kernel has no FUSE over io_uring")

// Enable switches the parameter on. The last one of all to call restore puts it back to what it was. The error is
// ErrUnsupported, or the system's.
func Enable() (restore func(), err error) {
	if _, err := os.Stat(parameter); err != nil {
		return nil, ErrUnsupported
	}
	f, err := os.OpenFile(state, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = guarded(func() error { return hold(f) })
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot switch FUSE over io_uring on: %w", err)
	}
	return func() {
		_ = guarded(func() error { return release(f) })
		f.Close()
	}, nil
}

func guarded(f func() error) error {
	g, err := os.OpenFile(guard, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer g.Close()
	if err := unix.Flock(int(g.Fd()), unix.LOCK_EX); err != nil {
		return err
	}
	return f()
}

// hold takes a share. Nobody has the exclusive lock but under the guard.
func hold(f *os.File) error {
	now, err := read(parameter)
	if err != nil {
		return err
	}
	if first, err := read(state); err != nil || first == "" {
		if _, err := f.WriteAt([]byte(now), 0); err != nil {
			return err
		}
	}
	if now != "Y" { // a guest may only read it
		if err := os.WriteFile(parameter, []byte("Y"), 0); err != nil {
			return err
		}
	}
	return unix.Flock(int(f.Fd()), unix.LOCK_SH)
}

// release gives a share back. Without another one it restores the parameter.
func release(f *os.File) error {
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		return nil
	}
	first, err := read(state)
	if err == nil && first == "N" {
		err = os.WriteFile(parameter, []byte(first), 0)
	}
	return errors.Join(err, f.Truncate(0))
}

func read(path string) (string, error) {
	b, err := os.ReadFile(path)
	return strings.TrimSpace(string(b)), err
}
