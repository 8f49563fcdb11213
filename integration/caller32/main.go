//go:build 386 || arm

// Command caller32 is built for 32 bits, and prints for each of its arguments the type of the file system by statfs, fstatfs, statfs64 and
// fstatfs64. With --input it tries to type into its terminal.
package main

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == "--input" {
		input()
		return
	}
	for _, path := range os.Args[1:] {
		name, err := unix.BytePtrFromString(path)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fd, err := unix.Open(path, unix.O_PATH, 0)
		if err != nil {
			fmt.Fprintln(os.Stderr, path, err)
			os.Exit(1)
		}
		fmt.Println(path, small(unix.SYS_STATFS, uintptr(unsafe.Pointer(name))), small(unix.SYS_FSTATFS, uintptr(fd)),
			large(unix.SYS_STATFS64, uintptr(unsafe.Pointer(name))), large(unix.SYS_FSTATFS64, uintptr(fd)))
		unix.Close(fd)
	}
}

// input is by the two ioctls that do it.
func input() {
	letter := []byte("x")
	for name, command := range map[string]uintptr{"TIOCSTI": unix.TIOCSTI, "TIOCLINUX": unix.TIOCLINUX} {
		said := "ok"
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, 0, command, uintptr(unsafe.Pointer(&letter[0]))); errno != 0 {
			said = unix.ErrnoName(errno)
		}
		fmt.Println(name + "=" + said)
	}
}

// small is by the calls whose structure has 32 bits throughout: type, block size, …, name length as the tenth.
func small(nr, what uintptr) string {
	var buf [16]uint32
	_, _, errno := unix.Syscall(nr, what, uintptr(unsafe.Pointer(&buf)), 0)
	if errno != 0 {
		return unix.ErrnoName(errno)
	}
	return fmt.Sprintf("%#x/%d/%d", buf[0], buf[1], buf[9])
}

// large is by those whose counts have 64 bits, and which are told the size. The name length is the fifteenth word.
func large(nr, what uintptr) string {
	var buf [22]uint32
	_, _, errno := unix.Syscall(nr, what, 84, uintptr(unsafe.Pointer(&buf)))
	if errno != 0 {
		return unix.ErrnoName(errno)
	}
	return fmt.Sprintf("%#x/%d/%d", buf[0], buf[1], buf[14])
}
