package main

import (
	"fmt"
	"io"
	"path"
	"strings"
)

// File types in a mode, as in stat(2).
const (
	typeDirectory = 0o040000
	typeCharacter = 0o020000
	typeRegular   = 0o100000
	typeSymlink   = 0o120000
)

// cpio writes an archive in the "newc" format that the kernel unpacks
// (Documentation/driver-api/early-userspace/buffer-format.rst). It adds missing directories above an entry. err keeps
// the first error, and nothing after it is written.
type cpio struct {
	w     io.Writer
	inode int
	known map[string]bool // written directories
	err   error
}

func newCPIO(w io.Writer) *cpio { return &cpio{w: w, known: map[string]bool{"": true, ".": true}} }

func (c *cpio) file(name string, mode uint32, data []byte) {
	c.entry(name, typeRegular|mode, 0, 0, data)
}

func (c *cpio) symlink(name, target string) {
	c.entry(name, typeSymlink|0o777, 0, 0, []byte(target))
}

func (c *cpio) device(name string, mode uint32, major, minor int) {
	c.entry(name, typeCharacter|mode, major, minor, nil)
}

func (c *cpio) directory(name string, mode uint32) {
	name = strings.TrimPrefix(path.Clean(name), "/")
	if !c.known[name] {
		c.known[name] = true
		c.entry(name, typeDirectory|mode, 0, 0, nil)
	}
}

func (c *cpio) entry(name string, mode uint32, major, minor int, data []byte) {
	name = strings.TrimPrefix(path.Clean(name), "/")
	if dir := path.Dir(name); !c.known[dir] {
		c.directory(dir, 0o755)
	}
	c.inode++
	c.header(name, c.inode, mode, major, minor, len(data))
	c.padded(data)
}

// header writes the fixed part of an entry, 110 bytes, and its name.
func (c *cpio) header(name string, inode int, mode uint32, major, minor, size int) {
	fields := []int{inode, int(mode), 0, 0, 1, 0, size, 0, 0, major, minor, len(name) + 1, 0}
	var b strings.Builder
	b.WriteString("070701")
	for _, f := range fields {
		fmt.Fprintf(&b, "%08X", f)
	}
	b.WriteString(name + "\x00")
	c.padded([]byte(b.String()))
}

// padded writes data and zeroes up to a multiple of four bytes: each header and each body begins at one.
func (c *cpio) padded(data []byte) {
	for _, part := range [][]byte{data, make([]byte, -len(data)&3)} {
		if c.err == nil {
			_, c.err = c.w.Write(part)
		}
	}
}

// close writes the entry that ends the archive.
func (c *cpio) close() error {
	c.header("TRAILER!!!", 0, 0, 0, 0, 0)
	return c.err
}
