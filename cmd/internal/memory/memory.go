// Package memory gives memory of this process back to the host.
package memory

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"runtime/debug"

	"golang.org/x/sys/unix"
)

// Release collects garbage, and gives back the heap that is free and the pages of the program that are mapped: nearly
// all of them are of the start, and the kernel maps a page again, out of its cache, when it is used. It takes some
// milliseconds.
func Release() {
	debug.FreeOSMemory()
	for _, m := range program() {
		_ = madvise(m, unix.MADV_DONTNEED)
	}
}

// mapping is a range of addresses.
type mapping struct{ from, to uintptr }

func madvise(m mapping, advice uintptr) error {
	_, _, errno := unix.Syscall(unix.SYS_MADVISE, m.from, m.to-m.from, advice)
	if errno != 0 {
		return os.NewSyscallError("madvise", errno)
	}
	return nil
}

// program returns the mappings of the program's file that cannot be written to. It leaves out those with pages of this
// process alone: there a debugger or a uprobe has put its breakpoints.
func program() (all []mapping) {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return nil
	}
	maps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		return nil
	}
	var m mapping
	var perms, offset, device, inode string
	ours := false
	for s := bufio.NewScanner(bytes.NewReader(maps)); s.Scan(); {
		// "Anonymous:" begins with a hexadecimal digit, too.
		var at mapping
		if n, _ := fmt.Sscanf(s.Text(), "%x-%x %s %s %s %s", &at.from, &at.to, &perms, &offset, &device, &inode); n == 6 {
			m = at
			ours = (perms == "r-xp" || perms == "r--p") && bytes.HasSuffix(s.Bytes(), []byte(" "+exe))
			continue
		}
		var kiB int
		if n, _ := fmt.Sscanf(s.Text(), "Anonymous: %d kB", &kiB); n == 1 && ours && kiB == 0 {
			all = append(all, m)
		}
	}
	return all
}
