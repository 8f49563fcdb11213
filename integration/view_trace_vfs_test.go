package integration

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

func closeFD(fd int) { unix.Close(fd) }

// mode is what stat says of a path.
func statOf(path string) string {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return errnoName(err)
	}
	return fmt.Sprintf("mode %o nlink %d size %d blocks %d blksize %d owner %d:%d", st.Mode, st.Nlink, st.Size, st.Blocks, st.Blksize, st.Uid, st.Gid)
}

// mk makes a cgroup and answers with its stat.
func mk(path string, mode uint32) string {
	if err := unix.Mkdir(path, mode); err != nil {
		return errnoName(err)
	}
	return statOf(path)
}

func rm(path string) string { return word(unix.Rmdir(path)) }

// reads reads from an open descriptor with small reads.
func reads(fd, size int) string {
	var b strings.Builder
	buf := make([]byte, size)
	for {
		n, err := unix.Read(fd, buf)
		if err != nil {
			return b.String() + errnoName(err)
		}
		if n == 0 {
			return b.String()
		}
		b.Write(buf[:n])
	}
}

// with opens a file and answers with what do does.
func with(path string, flags int, do func(fd int) string) string {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return errnoName(err)
	}
	defer unix.Close(fd)
	return do(fd)
}

const procs = "cgroup.procs"

// vfsSteps are what holds for every cgroup directory and file (facts, section 6).
func vfsSteps() []step {
	return slices.Concat(createSteps(), mkdirSteps(), renameSteps(), ioSteps(), attrSteps(), xattrSteps(), removedSteps(), notifySteps())
}

func createSteps() []step {
	open := func(name, path string, flags int) step {
		return step{name, func(x *traceEnv) string { return with(x.at(path), flags, func(int) string { return "ok" }) }}
	}
	return []step{
		open("open(O_CREAT) of a new name", "new", unix.O_CREAT|unix.O_WRONLY),
		open("open(O_CREAT|O_EXCL) of a new name", "new", unix.O_CREAT|unix.O_EXCL|unix.O_RDWR),
		open("open of a missing name", "missing", unix.O_RDONLY),
		open("open of a missing name of 256 bytes", strings.Repeat("n", 256), unix.O_RDONLY),
		{"stat of a missing name of 256 bytes", func(x *traceEnv) string { return statOf(x.at(strings.Repeat("n", 256))) }},
		{"rmdir of a missing name of 256 bytes", func(x *traceEnv) string { return rm(x.at(strings.Repeat("n", 256))) }},
		open("open below a file", procs+"/x", unix.O_RDONLY),
		open("open(O_CREAT) of a file that is there", procs, unix.O_CREAT|unix.O_RDONLY),
		open("open(O_CREAT|O_EXCL) of a file that is there", procs, unix.O_CREAT|unix.O_EXCL|unix.O_RDONLY),
		open("open(O_DIRECTORY) of a file", procs, unix.O_DIRECTORY|unix.O_RDONLY),
		open("open of a directory for writing", "", unix.O_WRONLY),
		open("open(O_TMPFILE)", "", unix.O_TMPFILE|unix.O_RDWR),
		open("open(O_DIRECT)", procs, unix.O_DIRECT|unix.O_RDONLY),
		open("open(O_TRUNC)", procs, unix.O_TRUNC|unix.O_WRONLY),
		open("open(O_NOFOLLOW|O_NOATIME)", procs, unix.O_NOFOLLOW|unix.O_NOATIME|unix.O_RDONLY),
		open("open(O_PATH)", procs, unix.O_PATH),
		{"mknod of a regular file", func(x *traceEnv) string { return word(unix.Mknod(x.at("n"), unix.S_IFREG|0o644, 0)) }},
		{"mknod of a fifo", func(x *traceEnv) string { return word(unix.Mknod(x.at("n"), unix.S_IFIFO|0o644, 0)) }},
		{"mknod of a device", func(x *traceEnv) string { return word(unix.Mknod(x.at("n"), unix.S_IFCHR|0o644, 259)) }},
		{"symlink", func(x *traceEnv) string { return word(unix.Symlink("/", x.at("l"))) }},
		{"link", func(x *traceEnv) string { return word(unix.Link(x.at(procs), x.at("l"))) }},
		{"unlink of a file", func(x *traceEnv) string { return word(unix.Unlink(x.at(procs))) }},
		{"unlink of a missing file", func(x *traceEnv) string { return word(unix.Unlink(x.at("missing"))) }},
		{"unlink of a directory", func(x *traceEnv) string { return word(unix.Unlink(x.w)) }},
		{"rmdir of a file", func(x *traceEnv) string { return rm(x.at(procs)) }},
		{"rmdir of a missing directory", func(x *traceEnv) string { return rm(x.at("missing")) }},
		{"readlink of a directory", func(x *traceEnv) string {
			_, err := unix.Readlink(x.w, make([]byte, 10))
			return word(err)
		}},
		{"truncate to 0", func(x *traceEnv) string { return word(unix.Truncate(x.at(procs), 0)) }},
		{"truncate to 100", func(x *traceEnv) string { return word(unix.Truncate(x.at(procs), 100)) }},
		{"size after truncate", func(x *traceEnv) string { return statOf(x.at(procs)) }},
		{"truncate of a directory", func(x *traceEnv) string { return word(unix.Truncate(x.w, 0)) }},
	}
}

func mkdirSteps() []step {
	name := func(n string) step {
		return step{fmt.Sprintf("mkdir and rmdir %q", n), func(x *traceEnv) string { return mk(x.at(n), 0o755) + " " + rm(x.at(n)) }}
	}
	mode := func(m uint32) step {
		return step{fmt.Sprintf("mkdir with mode %o", m), func(x *traceEnv) string { return mk(x.at("m"), m) + " " + rm(x.at("m")) }}
	}
	steps := []step{
		name("a"), name(".x"), name("a b"), name(`a\b`), name("\xff\xfe"), name("\x01"), name("..."), name("a\nb"), name("a:b"), name("ünï"),
		name("system.slice"), name("a.max"), name(strings.Repeat("y", 255)),
		mode(0o700), mode(0), mode(0o777), mode(0o1777), mode(0o2755), mode(0o4755),
		{"mkdir of a directory that is there", func(x *traceEnv) string { return mk(x.w, 0o755) }},
		{"mkdir of a control file that is there", func(x *traceEnv) string { return mk(x.at(procs), 0o755) }},
		{"mkdir below a missing directory", func(x *traceEnv) string { return mk(x.at("missing/a"), 0o755) }},
		{"mkdir below a file", func(x *traceEnv) string { return mk(x.at(procs+"/a"), 0o755) }},
		{"mkdir of a name of 256 bytes", func(x *traceEnv) string {
			return firstWord(mk(x.at(strings.Repeat("z", 256)), 0o755), rm(x.at(strings.Repeat("z", 256))))
		}},
		{"mkdir of a control file's name cgroup.evil", func(x *traceEnv) string { return firstWord(mk(x.at("cgroup.evil"), 0o755), rm(x.at("cgroup.evil"))) }},
		{"mkdir of the names of v1's files", func(x *traceEnv) string {
			if x.tree.Version == hierarchy.V1 {
				return ""
			}
			s := ""
			for _, name := range []string{"tasks", "notify_on_release", "release_agent"} {
				s += mk(x.at(name), 0o755) + " " + rm(x.at(name)) + " "
			}
			return s
		}},
		{"mkdir of a control file's name dmem.evil", func(x *traceEnv) string { return firstWord(mk(x.at("dmem.evil"), 0o755), rm(x.at("dmem.evil"))) }},
		{"rmdir with a child", func(x *traceEnv) string {
			return mk(x.at("p"), 0o755) + " " + mk(x.at("p/q"), 0o755) + " " + rm(x.at("p"))
		}},
		{"link count with a child", func(x *traceEnv) string { return statOf(x.at("p")) }},
		{"rmdir of dot", func(x *traceEnv) string { return word(unix.Unlinkat(unix.AT_FDCWD, x.at("p")+"/.", unix.AT_REMOVEDIR)) }},
		{"rmdir of dot dot", func(x *traceEnv) string {
			return word(unix.Unlinkat(unix.AT_FDCWD, x.at("p/q")+"/..", unix.AT_REMOVEDIR))
		}},
		{"rmdir of child and parent", func(x *traceEnv) string { return rm(x.at("p/q")) + " " + rm(x.at("p")) }},
		{"mkdir below a set-group-id directory", func(x *traceEnv) string {
			return mk(x.at("g"), 0o755) + " " + word(unix.Chmod(x.at("g"), 0o2755)) + " " + word(unix.Chown(x.at("g"), 0, 77)) + " " +
				word(unix.Chmod(x.at("g"), 0o2755)) + " " + mk(x.at("g/h"), 0o755) + " " + statOf(x.at("g/h/"+procs)) + " " + rm(x.at("g/h")) + " " + rm(x.at("g"))
		}},
		{"mkdir as another user", func(x *traceEnv) (s string) {
			asUser(1000, func() { s = mk(x.at("u"), 0o755) })
			return s
		}},
		{"mkdir as another user in a directory of its own", func(x *traceEnv) (s string) {
			s = mk(x.at("o"), 0o755) + " " + word(unix.Chown(x.at("o"), 1000, 1000))
			asUser(1000, func() {
				s += " " + mk(x.at("o/c"), 0o750) + " " + statOf(x.at("o/c/"+procs)) + " " + writeFile(x.at("o/c/"+procs), "x") + " " + rm(x.at("o/c"))
			})
			return s + " " + rm(x.at("o"))
		}},
	}
	return steps
}

// firstWord is "ok" when the second is, else the first: of a mkdir and its rmdir.
func firstWord(made, removed string) string {
	if removed == "ok" {
		return "ok"
	}
	return made
}

func renameSteps() []step {
	ren := func(name, from, to string) step {
		return step{"rename: " + name, func(x *traceEnv) string { return word(unix.Rename(x.at(from), x.at(to))) }}
	}
	return []step{
		{"rename: set-up", func(x *traceEnv) string { return mk(x.at("r"), 0o755) + mk(x.at("s"), 0o755) }},
		ren("in the same directory", "r", "r2"), ren("back", "r2", "r"),
		ren("of a missing directory", "missing", "m2"), ren("onto a directory that is there", "r", "s"),
		ren("to another directory", "r", "s/r"), ren("with a newline", "r", "r\nx"), ren("onto a control file", "r", procs),
		ren("of a control file", procs, "x"), ren("of a control file onto another", procs, "notify_on_release"),
		{"rename: RENAME_NOREPLACE", func(x *traceEnv) string {
			return word(unix.Renameat2(unix.AT_FDCWD, x.at("r"), unix.AT_FDCWD, x.at("r3"), unix.RENAME_NOREPLACE))
		}},
		{"rename: RENAME_EXCHANGE", func(x *traceEnv) string {
			return word(unix.Renameat2(unix.AT_FDCWD, x.at("r"), unix.AT_FDCWD, x.at("s"), unix.RENAME_EXCHANGE))
		}},
		{"rename: what is there now", func(x *traceEnv) string {
			return fmt.Sprint(exists(x.at("r")), exists(x.at("r2")), exists(x.at("r3")), exists(x.at("s")), exists(x.at("s/r")))
		}},
		{"rename: clean-up", func(x *traceEnv) string { rm(x.at("r3")); return rm(x.at("s")) + rm(x.at("s/r")) }},
		{"rename: clean-up of the rest", func(x *traceEnv) string { rm(x.at("r")); return fmt.Sprint(exists(x.at("r"))) }},
	}
}

func ioSteps() []step {
	return []step{
		{"write of 0 bytes", func(x *traceEnv) string {
			return with(x.at(procs), unix.O_WRONLY, func(fd int) string {
				n, err := unix.Write(fd, nil)
				return fmt.Sprint(n, word(err))
			})
		}},
		{"write of 4096 bytes", func(x *traceEnv) string { return writeFile(x.at(procs), strings.Repeat(" ", 4096)) }},
		{"write of 4097 bytes", func(x *traceEnv) string { return writeFile(x.at(procs), strings.Repeat(" ", 4097)) }},
		{"write of 100000 bytes", func(x *traceEnv) string { return writeFile(x.at(procs), strings.Repeat(" ", 100000)) }},
		{"write of garbage", func(x *traceEnv) string { return writeFile(x.at(procs), "garbage") }},
		{"read in small pieces", func(x *traceEnv) string {
			return fmt.Sprint(strings.Count(with(filepath.Join(x.dir, procs), unix.O_RDONLY, func(fd int) string { return reads(fd, 1) }), "\n"))
		}},
		{"read beyond the end", func(x *traceEnv) string {
			return with(x.at(procs), unix.O_RDONLY, func(fd int) string {
				n, err := unix.Pread(fd, make([]byte, 10), 1<<20)
				return fmt.Sprint(n, word(err))
			})
		}},
		{"read, lseek to 0, read", func(x *traceEnv) string {
			return with(filepath.Join(x.dir, procs), unix.O_RDONLY, func(fd int) string {
				a := reads(fd, 4096)
				off, err := unix.Seek(fd, 0, 0)
				b := reads(fd, 4096)
				return fmt.Sprint(a == b, off, word(err))
			})
		}},
		{"lseek to the end", func(x *traceEnv) string { return seek(x.at(procs), 0, unix.SEEK_END) }},
		{"lseek to a place", func(x *traceEnv) string { return seek(x.at(procs), 1000, unix.SEEK_SET) }},
		{"lseek to before the beginning", func(x *traceEnv) string { return seek(x.at(procs), -1, unix.SEEK_SET) }},
		{"lseek SEEK_DATA", func(x *traceEnv) string { return seek(x.at(procs), 0, unix.SEEK_DATA) }},
		{"lseek SEEK_HOLE", func(x *traceEnv) string { return seek(x.at(procs), 0, unix.SEEK_HOLE) }},
		{"read of a directory", func(x *traceEnv) string {
			return with(x.w, unix.O_RDONLY, func(fd int) string { _, err := unix.Read(fd, make([]byte, 10)); return word(err) })
		}},
		{"write to a reading descriptor", func(x *traceEnv) string {
			return with(x.at(procs), unix.O_RDONLY, func(fd int) string { _, err := unix.Write(fd, []byte("0")); return word(err) })
		}},
		{"read from a writing descriptor", func(x *traceEnv) string {
			return with(x.at(procs), unix.O_WRONLY, func(fd int) string { _, err := unix.Read(fd, make([]byte, 10)); return word(err) })
		}},
		{"mmap", func(x *traceEnv) string {
			return with(x.at(procs), unix.O_RDONLY, func(fd int) string {
				_, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ, unix.MAP_PRIVATE)
				return word(err)
			})
		}},
		{"fallocate", func(x *traceEnv) string {
			return with(x.at(procs), unix.O_RDWR, func(fd int) string { return word(unix.Fallocate(fd, 0, 0, 10)) })
		}},
		{"fsync", func(x *traceEnv) string {
			return with(x.at(procs), unix.O_RDWR, func(fd int) string { return word(unix.Fsync(fd)) })
		}},
		{"fdatasync", func(x *traceEnv) string {
			return with(x.at(procs), unix.O_RDWR, func(fd int) string { return word(unix.Fdatasync(fd)) })
		}},
		{"fsync of a directory", func(x *traceEnv) string {
			return with(x.w, unix.O_RDONLY, func(fd int) string { return word(unix.Fsync(fd)) })
		}},
		{"flock", func(x *traceEnv) string {
			return with(x.at(procs), unix.O_RDWR, func(fd int) string { return word(unix.Flock(fd, unix.LOCK_EX)) })
		}},
		{"fcntl lock", func(x *traceEnv) string {
			return with(x.at(procs), unix.O_RDWR, func(fd int) string {
				return word(unix.FcntlFlock(uintptr(fd), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}))
			})
		}},
		{"ioctl FS_IOC_GETFLAGS", func(x *traceEnv) string {
			return with(x.at(procs), unix.O_RDONLY, func(fd int) string { _, err := unix.IoctlGetInt(fd, unix.FS_IOC_GETFLAGS); return word(err) })
		}},
		{"ioctl of a number that is none", func(x *traceEnv) string {
			return with(x.at(procs), unix.O_RDONLY, func(fd int) string { _, err := unix.IoctlGetInt(fd, 0x1234); return word(err) })
		}},
		{"sendfile out", func(x *traceEnv) string {
			var p [2]int
			unix.Pipe2(p[:], unix.O_CLOEXEC)
			defer unix.Close(p[0])
			defer unix.Close(p[1])
			return with(filepath.Join(x.dir, procs), unix.O_RDONLY, func(fd int) string {
				n, err := unix.Sendfile(p[1], fd, nil, 4096)
				return fmt.Sprint(n > 0, word(err))
			})
		}},
		{"execute a control file", func(x *traceEnv) string {
			unix.Chmod(x.at(procs), 0o755)
			err := word(unix.Exec(x.at(procs), []string{"x"}, nil))
			unix.Chmod(x.at(procs), 0o644)
			return err
		}},
		{"append, with a place", func(x *traceEnv) string {
			return with(x.at(procs), unix.O_WRONLY|unix.O_APPEND, func(fd int) string {
				_, err := unix.Pwrite(fd, []byte("garbage"), 77)
				return word(err)
			})
		}},
		{"writev is one command", func(x *traceEnv) string {
			return with(x.at(procs), unix.O_WRONLY, func(fd int) string {
				_, err := unix.Writev(fd, [][]byte{[]byte("1x"), []byte("y")})
				return word(err)
			})
		}},
	}
}

func seek(path string, off int64, whence int) string {
	return with(path, unix.O_RDONLY, func(fd int) string {
		n, err := unix.Seek(fd, off, whence)
		return fmt.Sprint(n, word(err))
	})
}

func attrSteps() []step {
	return []step{
		{"stat of a directory", func(x *traceEnv) string { return statOf(x.w) }},
		{"stat of a file", func(x *traceEnv) string { return statOf(x.at(procs)) }},
		{"chmod of a file", func(x *traceEnv) string { return word(unix.Chmod(x.at(procs), 0o751)) + statOf(x.at(procs)) }},
		{"chmod of a file to 0 does not stop root", func(x *traceEnv) string {
			return word(unix.Chmod(x.at(procs), 0)) + statOf(x.at(procs)) + with(x.at(procs), unix.O_RDWR, func(int) string { return "ok" })
		}},
		{"chmod of a file back", func(x *traceEnv) string { return word(unix.Chmod(x.at(procs), 0o644)) }},
		{"chmod of a directory", func(x *traceEnv) string { return word(unix.Chmod(x.w, 0o1700)) + statOf(x.w) }},
		{"chmod of a directory back", func(x *traceEnv) string { return word(unix.Chmod(x.w, 0o755)) + statOf(x.w) }},
		{"chown of a file", func(x *traceEnv) string { return word(unix.Chown(x.at(procs), 1000, 1001)) + statOf(x.at(procs)) }},
		{"chown of a file by another user", func(x *traceEnv) (s string) {
			asUser(1000, func() { s = word(unix.Chown(x.at(procs), 1002, -1)) })
			return s
		}},
		{"chmod of a file by its owner", func(x *traceEnv) (s string) {
			asUser(1000, func() { s = word(unix.Chmod(x.at(procs), 0o600)) + statOf(x.at(procs)) })
			return s
		}},
		{"chmod of a file by another user", func(x *traceEnv) (s string) {
			asUser(1002, func() { s = word(unix.Chmod(x.at(procs), 0o600)) })
			return s
		}},
		{"open of a file by another user", func(x *traceEnv) (s string) {
			asUser(1002, func() {
				s = with(x.at(procs), unix.O_RDONLY, func(int) string { return "ok" }) + with(x.at(procs), unix.O_WRONLY, func(int) string { return "ok" })
			})
			return s
		}},
		{"access by another user", func(x *traceEnv) (s string) {
			asUser(1002, func() { s = word(unix.Faccessat(unix.AT_FDCWD, x.at(procs), unix.R_OK, unix.AT_EACCESS)) })
			return s
		}},
		{"chown of a file back", func(x *traceEnv) string {
			return word(unix.Chown(x.at(procs), 0, 0)) + word(unix.Chmod(x.at(procs), 0o644)) + statOf(x.at(procs))
		}},
		{"chown of a directory", func(x *traceEnv) string { return word(unix.Chown(x.w, 1000, 1001)) + statOf(x.w) + statOf(x.at(procs)) }},
		{"chown of a directory back", func(x *traceEnv) string { return word(unix.Chown(x.w, 0, 0)) + statOf(x.w) }},
		{"utimes of a file", func(x *traceEnv) string { return setTimes(x.at(procs)) }},
		{"utimes of a directory", func(x *traceEnv) string { return setTimes(x.w) }},
		{"chmod and chown change the time of change", func(x *traceEnv) (s string) {
			for _, path := range []string{x.w, x.at(procs)} {
				for _, do := range []func() error{
					func() error { return unix.Chmod(path, 0o755) }, func() error { return unix.Chown(path, 0, 0) },
				} {
					ctime, mtime := changed(path)
					time.Sleep(15 * time.Millisecond) // more than a tick, by which the kernel counts such times
					s += word(do())
					ctime2, mtime2 := changed(path)
					s += fmt.Sprint(ctime2 > ctime, mtime2 == mtime, " ")
				}
			}
			return s + word(unix.Chmod(x.at(procs), 0o644))
		}},
		{"O_TRUNC changes the time of modification", func(x *traceEnv) string {
			_, before := changed(x.at(procs))
			time.Sleep(15 * time.Millisecond)
			with(x.at(procs), unix.O_WRONLY|unix.O_TRUNC, func(int) string { return "" })
			_, after := changed(x.at(procs))
			return fmt.Sprint(after > before)
		}},
		{"a write leaves the time", func(x *traceEnv) string {
			before := timesOf(x.at(procs))
			time.Sleep(15 * time.Millisecond)
			writeFile(x.at(procs), "garbage")
			return fmt.Sprint(timesOf(x.at(procs)) == before)
		}},
		{"statfs: sizes", func(x *traceEnv) string {
			var s unix.Statfs_t
			err := unix.Statfs(x.w, &s)
			return fmt.Sprint(s.Bsize, s.Frsize, s.Blocks, s.Bfree, s.Bavail, s.Files, s.Ffree, s.Namelen, word(err))
		}},
		{"statfs: type", func(x *traceEnv) string {
			var s unix.Statfs_t
			unix.Statfs(x.w, &s)
			return fmt.Sprintf("%x", s.Type)
		}},
		{"readdir: types and inode numbers", func(x *traceEnv) string { return listing(x.w) }},
		{"readdir: inode numbers of . and ..", func(x *traceEnv) string {
			mk(x.at("dots"), 0o755)
			defer rm(x.at("dots"))
			return dots(x.w) + dots(x.at("dots"))
		}},
		{"handle: name_to_handle_at", func(x *traceEnv) string {
			h, _, err := unix.NameToHandleAt(unix.AT_FDCWD, x.w, 0)
			if err == nil {
				return fmt.Sprintf("%x %d", h.Type(), h.Size())
			}
			return errnoName(err)
		}},
		{"pathconf: O_PATH of a directory and fstat", func(x *traceEnv) string {
			return with(x.w, unix.O_PATH, func(fd int) string {
				var st unix.Stat_t
				return fmt.Sprintf("%s %o", word(unix.Fstat(fd, &st)), st.Mode)
			})
		}},
	}
}

// changed are a file's times of change and of modification.
func changed(path string) (ctime, mtime int64) {
	var st unix.Stat_t
	unix.Lstat(path, &st)
	return unix.TimespecToNsec(st.Ctim), unix.TimespecToNsec(st.Mtim)
}

func timesOf(path string) string {
	var st unix.Stat_t
	unix.Lstat(path, &st)
	return fmt.Sprint(st.Mtim, st.Ctim)
}

func setTimes(path string) string {
	err := unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{{Sec: 1000, Nsec: 5}, {Sec: 2000, Nsec: 7}}, 0)
	var st unix.Stat_t
	unix.Lstat(path, &st)
	return fmt.Sprint(word(err), st.Mtim.Sec, st.Mtim.Nsec)
}

// listing compares d_type and d_ino with what stat says of each entry.
func listing(dir string) string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return errnoName(err)
	}
	bad := 0
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || info.IsDir() != e.IsDir() {
			bad++
		}
	}
	return fmt.Sprintf("%d entries that stat disagrees with", bad)
}

// dots compares the inode numbers of "." and ".." in a listing with those of stat.
func dots(dir string) string {
	return with(dir, unix.O_RDONLY|unix.O_DIRECTORY, func(fd int) string {
		buf := make([]byte, 4096)
		n, err := unix.Getdents(fd, buf)
		if err != nil {
			return errnoName(err)
		}
		s := ""
		for b := buf[:n]; len(b) > 19; b = b[binary.NativeEndian.Uint16(b[16:]):] {
			name, _, _ := strings.Cut(string(b[19:binary.NativeEndian.Uint16(b[16:])]), "\x00")
			if name == "." || name == ".." {
				var st unix.Stat_t
				unix.Lstat(dir+"/"+name, &st)
				s += fmt.Sprint(name, binary.NativeEndian.Uint64(b) == st.Ino, " ")
			}
		}
		return s
	})
}

func xattrSteps() []step {
	get := func(path, name string) string {
		buf := make([]byte, 64)
		n, err := unix.Getxattr(path, name, buf)
		return fmt.Sprintf("%s %q", word(err), buf[:max(n, 0)])
	}
	return []step{
		{"xattr: get of one that is not set", func(x *traceEnv) string { return get(x.w, "user.a") }},
		{"xattr: set and get", func(x *traceEnv) string {
			return word(unix.Setxattr(x.w, "user.a", []byte("1"), 0)) + get(x.w, "user.a")
		}},
		{"xattr: set anew", func(x *traceEnv) string {
			return word(unix.Setxattr(x.w, "user.a", []byte("22"), 0)) + get(x.w, "user.a")
		}},
		{"xattr: XATTR_CREATE of one that is there", func(x *traceEnv) string { return word(unix.Setxattr(x.w, "user.a", nil, unix.XATTR_CREATE)) }},
		{"xattr: XATTR_REPLACE of one that is not", func(x *traceEnv) string { return word(unix.Setxattr(x.w, "user.b", nil, unix.XATTR_REPLACE)) }},
		{"xattr: get into too little room", func(x *traceEnv) string { _, err := unix.Getxattr(x.w, "user.a", make([]byte, 1)); return word(err) }},
		{"xattr: size", func(x *traceEnv) string { n, err := unix.Getxattr(x.w, "user.a", nil); return fmt.Sprint(n, word(err)) }},
		{"xattr: list", func(x *traceEnv) string {
			b := make([]byte, 100)
			n, err := unix.Listxattr(x.w, b)
			return fmt.Sprintf("%q %s", b[:max(n, 0)], word(err))
		}},
		{"xattr: list into too little room", func(x *traceEnv) string { _, err := unix.Listxattr(x.w, make([]byte, 2)); return word(err) }},
		{"xattr: on a file", func(x *traceEnv) string {
			return word(unix.Setxattr(x.at(procs), "user.f", []byte("f"), 0)) + get(x.at(procs), "user.f")
		}},
		{"xattr: trusted", func(x *traceEnv) string {
			return word(unix.Setxattr(x.w, "trusted.t", []byte("t"), 0)) + get(x.w, "trusted.t") + word(unix.Removexattr(x.w, "trusted.t"))
		}},
		{"xattr: remove", func(x *traceEnv) string { return word(unix.Removexattr(x.w, "user.a")) + get(x.w, "user.a") }},
		{"xattr: remove of one that is not set", func(x *traceEnv) string { return word(unix.Removexattr(x.w, "user.a")) }},
		{"xattr: system.posix_acl_access", func(x *traceEnv) string { return word(unix.Setxattr(x.w, "system.posix_acl_access", []byte("1"), 0)) }},
		{"xattr: a name space that is none", func(x *traceEnv) string { return word(unix.Setxattr(x.w, "nowhere.a", []byte("1"), 0)) }},
		{"xattr: security", func(x *traceEnv) string { return word(unix.Setxattr(x.w, "security.a", []byte("1"), 0)) }},
		{"xattr: as another user", func(x *traceEnv) (s string) {
			asUser(1000, func() { s = word(unix.Setxattr(x.w, "user.z", []byte("1"), 0)) + get(x.w, "user.z") })
			return s
		}},
		{"xattr: names with nothing after the prefix", func(x *traceEnv) (s string) {
			names := []string{"user.", "trusted."}
			if !x.tree.View { // a guest's root owns the file systems that it mounts, and may then set security.* (cap_inode_setxattr)
				names = append(names, "security.")
			}
			for _, name := range names {
				s += name + " " + get(x.w, name) + word(unix.Setxattr(x.w, name, []byte("1"), 0)) + word(unix.Removexattr(x.w, name)) + "; "
			}
			asUser(1000, func() { s += get(x.w, "trusted.") + word(unix.Setxattr(x.w, "trusted.", nil, 0)) })
			return s
		}},
		{"xattr: names of up to 256 bytes", func(x *traceEnv) (s string) {
			for _, size := range []int{230, 235, 236, 254, 255, 256} {
				for _, prefix := range []string{"user.", "trusted."} {
					name := prefix + strings.Repeat("n", size-len(prefix))
					s += fmt.Sprint(size, " ")
					for _, flags := range []int{unix.XATTR_REPLACE, unix.XATTR_CREATE, unix.XATTR_CREATE, 0} {
						s += word(unix.Setxattr(x.w, name, []byte("33"), flags)) + " "
					}
					s += get(x.w, name) + attrNames(x.w)
					s += word(unix.Removexattr(x.w, name)) + word(unix.Removexattr(x.w, name)) + attrNames(x.w)
				}
			}
			return s
		}},
		{"xattr: trusted names are listed to root alone", func(x *traceEnv) (s string) {
			for _, name := range []string{"user.open", "trusted.secret", "trusted." + strings.Repeat("n", 247)} {
				s += word(unix.Setxattr(x.w, name, []byte("1"), 0))
			}
			s += attrNames(x.w)
			asUser(1000, func() { s += attrNames(x.w) + get(x.w, "trusted.secret") })
			for _, name := range []string{"user.open", "trusted.secret", "trusted." + strings.Repeat("n", 247)} {
				s += word(unix.Removexattr(x.w, name))
			}
			return s + attrNames(x.w)
		}},
		{"xattr: more than there is room for", func(x *traceEnv) string {
			n := 0
			for ; n < 200; n++ {
				if err := unix.Setxattr(x.w, fmt.Sprintf("user.n%d", n), []byte("1"), 0); err != nil {
					return errnoName(err)
				}
			}
			return "no end"
		}},
	}
}

// attrNames are the names of a file's attributes, sorted, since the kernel's order is that of its tree; without security.*, which
// a view does not take.
func attrNames(path string) string {
	b := make([]byte, 64<<10)
	n, err := unix.Listxattr(path, b)
	names := strings.Split(strings.TrimSuffix(string(b[:max(n, 0)]), "\x00"), "\x00")
	slices.Sort(names)
	names = slices.DeleteFunc(names, func(name string) bool { return name == "" || strings.HasPrefix(name, "security.") })
	return fmt.Sprint(len(names), names, word(err))
}

func removedSteps() []step {
	return []step{
		{"removed: set-up", func(x *traceEnv) string {
			s := mk(x.at("gone"), 0o755)
			x.fds["file"], _ = unix.Open(x.at("gone/"+procs), unix.O_RDWR|unix.O_CLOEXEC, 0)
			x.fds["read"], _ = unix.Open(x.at("gone/"+procs), unix.O_RDONLY|unix.O_CLOEXEC, 0)
			x.fds["path"], _ = unix.Open(x.at("gone/"+procs), unix.O_PATH|unix.O_CLOEXEC, 0)
			x.fds["dir"], _ = unix.Open(x.at("gone"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
			return s + rm(x.at("gone"))
		}},
		{"removed: read of an open file", func(x *traceEnv) string { _, err := unix.Pread(x.fds["file"], make([]byte, 10), 0); return word(err) }},
		{"removed: write to an open file", func(x *traceEnv) string { _, err := unix.Write(x.fds["file"], []byte("0")); return word(err) }},
		{"removed: fstat of an open file", func(x *traceEnv) string {
			var st unix.Stat_t
			s := ""
			for _, name := range []string{"file", "read"} {
				s += fmt.Sprintf("%s %o %d:%d ", word(unix.Fstat(x.fds[name], &st)), st.Mode, st.Uid, st.Gid)
			}
			return s
		}},
		{"removed: an open file opened again", func(x *traceEnv) string {
			return reopened(x.fds["file"]) + " " + reopened(x.fds["read"]) + " " + reopened(x.fds["path"])
		}},
		{"removed: directory opened again", func(x *traceEnv) string { return reopened(x.fds["dir"]) }},
		{"removed: a file that is bound", func(x *traceEnv) string {
			s := mk(x.at("gone"), 0o755)
			at := fileWith(x.t, "")
			if err := unix.Mount(x.at("gone/"+procs), at, "", unix.MS_BIND, ""); err != nil {
				return errnoName(err)
			}
			defer unix.Unmount(at, unix.MNT_DETACH)
			return s + readFile(at) + rm(x.at("gone")) + readFile(at) + writeFile(at, "0")
		}},
		{"removed: readdir", func(x *traceEnv) string {
			n, err := unix.Getdents(x.fds["dir"], make([]byte, 1000))
			return fmt.Sprint(n > 60, word(err))
		}},
		{"removed: openat", func(x *traceEnv) string {
			_, err := unix.Openat(x.fds["dir"], procs, unix.O_RDONLY, 0)
			return word(err)
		}},
		{"removed: mkdirat", func(x *traceEnv) string { return word(unix.Mkdirat(x.fds["dir"], "x", 0o755)) }},
		{"removed: fstat", func(x *traceEnv) string {
			var st unix.Stat_t
			return fmt.Sprintf("%s %o", word(unix.Fstat(x.fds["dir"], &st)), st.Mode)
		}},
		{"removed: fchmod of a file", func(x *traceEnv) string { return word(unix.Fchmod(x.fds["file"], 0o600)) }},
		{"removed: fchown of a file", func(x *traceEnv) string { return word(unix.Fchown(x.fds["file"], 1, 2)) }},
		{"removed: ftruncate of a file", func(x *traceEnv) string { return word(unix.Ftruncate(x.fds["file"], 0)) }},
		{"removed: fstat of a file", func(x *traceEnv) string {
			var st unix.Stat_t
			return fmt.Sprintf("%s %o size %d", word(unix.Fstat(x.fds["file"], &st)), st.Mode&unix.S_IFMT, st.Size)
		}},
		{"removed: fchmod of the directory", func(x *traceEnv) string { return word(unix.Fchmod(x.fds["dir"], 0o700)) }},
		{"removed: fchown of the directory", func(x *traceEnv) string { return word(unix.Fchown(x.fds["dir"], 1, 2)) }},
		{"removed: stat", func(x *traceEnv) string { return statOf(x.at("gone")) }},
		{"removed: made anew", func(x *traceEnv) string {
			return mk(x.at("gone"), 0o755) + readFile(x.at("gone/"+procs)) + rm(x.at("gone"))
		}},
	}
}

// notifySteps are what a guest's inotify sees of its own doings.
func notifySteps() []step {
	watch := func(name string, mask uint32, path string, do func(x *traceEnv)) step {
		return step{"inotify: " + name, func(x *traceEnv) string {
			fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
			if err != nil {
				return errnoName(err)
			}
			defer unix.Close(fd)
			if _, err := unix.InotifyAddWatch(fd, x.at(path), mask); err != nil {
				return errnoName(err)
			}
			do(x)
			return events(fd)
		}}
	}
	return []step{
		watch("a write", unix.IN_MODIFY|unix.IN_CLOSE_WRITE, procs, func(x *traceEnv) { writeFile(x.at(procs), strings.Repeat(" ", 4)+"x") }),
		watch("mkdir and rmdir", unix.IN_CREATE|unix.IN_DELETE, "", func(x *traceEnv) { mk(x.at("i"), 0o755); rm(x.at("i")) }),
		watch("chmod", unix.IN_ATTRIB, procs, func(x *traceEnv) { unix.Chmod(x.at(procs), 0o644) }),
		watch("open and read", unix.IN_OPEN|unix.IN_ACCESS|unix.IN_CLOSE_NOWRITE, procs, func(x *traceEnv) { readFile(x.at(procs)) }),
	}
}

// events reads the masks and names of what inotify has.
func events(fd int) string {
	buf := make([]byte, 4096)
	n, err := unix.Read(fd, buf)
	if err != nil {
		return errnoName(err)
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
