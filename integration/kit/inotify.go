package kit

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// ReadInotify reads the masks and names of what inotify has.
func ReadInotify(fd int) string {
	buf := make([]byte, 4096)
	n, err := unix.Read(fd, buf)
	if err != nil {
		return ErrnoName(err)
	}
	var out []string
	for b := buf[:n]; len(b) >= unix.SizeofInotifyEvent; {
		mask := uint32(b[4]) | uint32(b[5])<<8 | uint32(b[6])<<16 | uint32(b[7])<<24
		size := int(b[12]) | int(b[13])<<8
		name := strings.TrimRight(string(b[16:16+size]), "\x00")
		out = append(out, fmt.Sprintf("%x %s", mask, name))
		b = b[16+size:]
	}
	return strings.Join(slices.Compact(out), ",")
}
