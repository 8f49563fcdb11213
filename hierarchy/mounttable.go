package hierarchy

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
)

// ReadMounts parses the text of /proc/<pid>/mountinfo. The filter may be nil; it can skip a line and stop at one,
// which is the last. Lines may have any length: a user who may rename directories above a mount controls the length
// of its line (four bytes for each byte of a name, at any depth), and must not hide the table by it. The error names
// a malformed line, or is the reader's.
func ReadMounts(r io.Reader, filter mountinfo.FilterFunc) ([]*mountinfo.Info, error) {
	all := []*mountinfo.Info{}
	in := bufio.NewReader(r)
	for {
		line, err := in.ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		if line != "" {
			m, perr := parseMount(strings.TrimSuffix(line, "\n"))
			if perr != nil {
				return nil, perr
			}
			var skip, stop bool
			if filter != nil {
				skip, stop = filter(m)
			}
			if !skip {
				all = append(all, m)
			}
			if stop {
				return all, nil
			}
		}
		if err != nil {
			return all, nil
		}
	}
}

// parseMount parses a line of proc(5): id, parent, major:minor, root, mount point, options, any number of optional
// fields, "-", type, source, options of the superblock. An empty source is an empty field.
func parseMount(line string) (*mountinfo.Info, error) {
	fields := strings.Split(line, " ")
	separator := 6
	for separator < len(fields) && fields[separator] != "-" {
		separator++
	}
	if len(fields) < separator+4 {
		return nil, fmt.Errorf("%.80q is no line of a mount table: too few fields", line)
	}
	m := &mountinfo.Info{
		Root: unescapeMount(fields[3]), Mountpoint: unescapeMount(fields[4]), Options: fields[5],
		Optional: strings.Join(fields[6:separator], " "),
		FSType:   unescapeMount(fields[separator+1]), Source: unescapeMount(fields[separator+2]),
		VFSOptions: fields[separator+3],
	}
	major, minor, _ := strings.Cut(fields[2], ":")
	for _, n := range []struct {
		to   *int
		text string
	}{{&m.ID, fields[0]}, {&m.Parent, fields[1]}, {&m.Major, major}, {&m.Minor, minor}} {
		var err error
		if *n.to, err = strconv.Atoi(n.text); err != nil {
			return nil, fmt.Errorf("%.80q is no line of a mount table: %q is no number", line, n.text)
		}
	}
	return m, nil
}

// unescapeMount decodes the kernel's \ooo (mangle in fs/proc_namespace.c): blank, tab, newline, backslash, and # of
// a source.
func unescapeMount(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
