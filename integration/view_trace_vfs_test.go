package integration

import (
	"encoding/binary"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

func closeFD(fd int) { unix.Close(fd) }

// vfsSteps are what holds for every cgroup directory and file (facts, section 6).
func vfsSteps() []step {
	return slices.Concat(createSteps(), mkdirSteps(), renameSteps(), ioSteps(), attrSteps(), xattrSteps(), removedSteps(), notifySteps())
}

func createSteps() []step {
	open := func(name, path string, flags int) step {
		return step{name, func(x *traceEnv) string { return kit.TryFile(x.at(path), flags, func(int) string { return "ok" }) }}
	}
	return []step{
		open("open(O_CREAT) of a new name", "new", unix.O_CREAT|unix.O_WRONLY),
		open("open(O_CREAT|O_EXCL) of a new name", "new", unix.O_CREAT|unix.O_EXCL|unix.O_RDWR),
		open("open of a missing name", "missing", unix.O_RDONLY),
		open("open of a missing name of 256 bytes", strings.Repeat("n", 256), unix.O_RDONLY),
		{"stat of a missing name of 256 bytes", func(x *traceEnv) string { return kit.StatText(x.at(strings.Repeat("n", 256))) }},
		{"rmdir of a missing name of 256 bytes", func(x *traceEnv) string { return kit.Rmdir(x.at(strings.Repeat("n", 256))) }},
		open("open below a file", kit.Procs+"/x", unix.O_RDONLY),
		open("open(O_CREAT) of a file that is there", kit.Procs, unix.O_CREAT|unix.O_RDONLY),
		open("open(O_CREAT|O_EXCL) of a file that is there", kit.Procs, unix.O_CREAT|unix.O_EXCL|unix.O_RDONLY),
		open("open(O_DIRECTORY) of a file", kit.Procs, unix.O_DIRECTORY|unix.O_RDONLY),
		open("open of a directory for writing", "", unix.O_WRONLY),
		open("open(O_TMPFILE)", "", unix.O_TMPFILE|unix.O_RDWR),
		open("open(O_DIRECT)", kit.Procs, unix.O_DIRECT|unix.O_RDONLY),
		open("open(O_TRUNC)", kit.Procs, unix.O_TRUNC|unix.O_WRONLY),
		open("open(O_NOFOLLOW|O_NOATIME)", kit.Procs, unix.O_NOFOLLOW|unix.O_NOATIME|unix.O_RDONLY),
		open("open(O_PATH)", kit.Procs, unix.O_PATH),
		{"mknod of a regular file", func(x *traceEnv) string { return kit.Word(unix.Mknod(x.at("n"), unix.S_IFREG|0o644, 0)) }},
		{"mknod of a fifo", func(x *traceEnv) string { return kit.Word(unix.Mknod(x.at("n"), unix.S_IFIFO|0o644, 0)) }},
		{"mknod of a device", func(x *traceEnv) string { return kit.Word(unix.Mknod(x.at("n"), unix.S_IFCHR|0o644, 259)) }},
		{"symlink", func(x *traceEnv) string { return kit.Word(unix.Symlink("/", x.at("l"))) }},
		{"link", func(x *traceEnv) string { return kit.Word(unix.Link(x.at(kit.Procs), x.at("l"))) }},
		{"unlink of a file", func(x *traceEnv) string { return kit.Word(unix.Unlink(x.at(kit.Procs))) }},
		{"unlink of a missing file", func(x *traceEnv) string { return kit.Word(unix.Unlink(x.at("missing"))) }},
		{"unlink of a directory", func(x *traceEnv) string { return kit.Word(unix.Unlink(x.w)) }},
		{"rmdir of a file", func(x *traceEnv) string { return kit.Rmdir(x.at(kit.Procs)) }},
		{"rmdir of a missing directory", func(x *traceEnv) string { return kit.Rmdir(x.at("missing")) }},
		{"readlink of a directory", func(x *traceEnv) string {
			_, err := unix.Readlink(x.w, make([]byte, 10))
			return kit.Word(err)
		}},
		{"truncate to 0", func(x *traceEnv) string { return kit.Word(unix.Truncate(x.at(kit.Procs), 0)) }},
		{"truncate to 100", func(x *traceEnv) string { return kit.Word(unix.Truncate(x.at(kit.Procs), 100)) }},
		{"size after truncate", func(x *traceEnv) string { return kit.StatText(x.at(kit.Procs)) }},
		{"truncate of a directory", func(x *traceEnv) string { return kit.Word(unix.Truncate(x.w, 0)) }},
	}
}

func mkdirSteps() []step {
	name := func(n string) step {
		return step{fmt.Sprintf("mkdir and rmdir %q", n), func(x *traceEnv) string { return kit.Mkdir(x.at(n), 0o755) + " " + kit.Rmdir(x.at(n)) }}
	}
	mode := func(m uint32) step {
		return step{fmt.Sprintf("mkdir with mode %o", m), func(x *traceEnv) string { return kit.Mkdir(x.at("m"), m) + " " + kit.Rmdir(x.at("m")) }}
	}
	steps := []step{
		name("a"), name(".x"), name("a b"), name(`a\b`), name("\xff\xfe"), name("\x01"), name("..."), name("a\nb"), name("a:b"), name("ünï"),
		name("system.slice"), name("a.max"), name(strings.Repeat("y", 255)),
		mode(0o700), mode(0), mode(0o777), mode(0o1777), mode(0o2755), mode(0o4755),
		{"mkdir of a directory that is there", func(x *traceEnv) string { return kit.Mkdir(x.w, 0o755) }},
		{"mkdir of a control file that is there", func(x *traceEnv) string { return kit.Mkdir(x.at(kit.Procs), 0o755) }},
		{"mkdir below a missing directory", func(x *traceEnv) string { return kit.Mkdir(x.at("missing/a"), 0o755) }},
		{"mkdir below a file", func(x *traceEnv) string { return kit.Mkdir(x.at(kit.Procs+"/a"), 0o755) }},
		{"mkdir of a name of 256 bytes", func(x *traceEnv) string {
			return firstWord(kit.Mkdir(x.at(strings.Repeat("z", 256)), 0o755), kit.Rmdir(x.at(strings.Repeat("z", 256))))
		}},
		{"mkdir of a control file's name cgroup.evil", func(x *traceEnv) string {
			return firstWord(kit.Mkdir(x.at("cgroup.evil"), 0o755), kit.Rmdir(x.at("cgroup.evil")))
		}},
		{"mkdir of the names of v1's files", func(x *traceEnv) string {
			if x.hier.Version == hierarchy.V1 {
				return ""
			}
			s := ""
			for _, name := range []string{"tasks", "notify_on_release", "release_agent"} {
				s += kit.Mkdir(x.at(name), 0o755) + " " + kit.Rmdir(x.at(name)) + " "
			}
			return s
		}},
		{"mkdir of a control file's name dmem.evil", func(x *traceEnv) string {
			return firstWord(kit.Mkdir(x.at("dmem.evil"), 0o755), kit.Rmdir(x.at("dmem.evil")))
		}},
		{"rmdir with a child", func(x *traceEnv) string {
			return kit.Mkdir(x.at("p"), 0o755) + " " + kit.Mkdir(x.at("p/q"), 0o755) + " " + kit.Rmdir(x.at("p"))
		}},
		{"link count with a child", func(x *traceEnv) string { return kit.StatText(x.at("p")) }},
		{"rmdir of dot", func(x *traceEnv) string {
			return kit.Word(unix.Unlinkat(unix.AT_FDCWD, x.at("p")+"/.", unix.AT_REMOVEDIR))
		}},
		{"rmdir of dot dot", func(x *traceEnv) string {
			return kit.Word(unix.Unlinkat(unix.AT_FDCWD, x.at("p/q")+"/..", unix.AT_REMOVEDIR))
		}},
		{"rmdir of child and parent", func(x *traceEnv) string { return kit.Rmdir(x.at("p/q")) + " " + kit.Rmdir(x.at("p")) }},
		{"mkdir below a set-group-id directory", func(x *traceEnv) string {
			return kit.Mkdir(x.at("g"), 0o755) + " " + kit.Word(unix.Chmod(x.at("g"), 0o2755)) + " " + kit.Word(unix.Chown(x.at("g"), 0, 77)) + " " +
				kit.Word(unix.Chmod(x.at("g"), 0o2755)) + " " + kit.Mkdir(x.at("g/h"), 0o755) + " " + kit.StatText(x.at("g/h/"+kit.Procs)) + " " + kit.Rmdir(x.at("g/h")) + " " + kit.Rmdir(x.at("g"))
		}},
		{"mkdir as another user", func(x *traceEnv) (s string) {
			kit.AsUser(1000, func() { s = kit.Mkdir(x.at("u"), 0o755) })
			return s
		}},
		{"mkdir as another user in a directory of its own", func(x *traceEnv) (s string) {
			s = kit.Mkdir(x.at("o"), 0o755) + " " + kit.Word(unix.Chown(x.at("o"), 1000, 1000))
			kit.AsUser(1000, func() {
				s += " " + kit.Mkdir(x.at("o/c"), 0o750) + " " + kit.StatText(x.at("o/c/"+kit.Procs)) + " " + kit.WriteFile(x.at("o/c/"+kit.Procs), "x") + " " + kit.Rmdir(x.at("o/c"))
			})
			return s + " " + kit.Rmdir(x.at("o"))
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
		return step{"rename: " + name, func(x *traceEnv) string { return kit.Word(unix.Rename(x.at(from), x.at(to))) }}
	}
	return []step{
		{"rename: set-up", func(x *traceEnv) string { return kit.Mkdir(x.at("r"), 0o755) + kit.Mkdir(x.at("s"), 0o755) }},
		ren("in the same directory", "r", "r2"), ren("back", "r2", "r"),
		ren("of a missing directory", "missing", "m2"), ren("onto a directory that is there", "r", "s"),
		ren("to another directory", "r", "s/r"), ren("with a newline", "r", "r\nx"), ren("onto a control file", "r", kit.Procs),
		ren("of a control file", kit.Procs, "x"), ren("of a control file onto another", kit.Procs, "notify_on_release"),
		{"rename: RENAME_NOREPLACE", func(x *traceEnv) string {
			return kit.Word(unix.Renameat2(unix.AT_FDCWD, x.at("r"), unix.AT_FDCWD, x.at("r3"), unix.RENAME_NOREPLACE))
		}},
		{"rename: RENAME_EXCHANGE", func(x *traceEnv) string {
			return kit.Word(unix.Renameat2(unix.AT_FDCWD, x.at("r"), unix.AT_FDCWD, x.at("s"), unix.RENAME_EXCHANGE))
		}},
		{"rename: what is there now", func(x *traceEnv) string {
			return fmt.Sprint(kit.Exists(x.at("r")), kit.Exists(x.at("r2")), kit.Exists(x.at("r3")), kit.Exists(x.at("s")), kit.Exists(x.at("s/r")))
		}},
		{"rename: clean-up", func(x *traceEnv) string { kit.Rmdir(x.at("r3")); return kit.Rmdir(x.at("s")) + kit.Rmdir(x.at("s/r")) }},
		{"rename: clean-up of the rest", func(x *traceEnv) string { kit.Rmdir(x.at("r")); return fmt.Sprint(kit.Exists(x.at("r"))) }},
	}
}

func ioSteps() []step {
	return []step{
		{"write of 0 bytes", func(x *traceEnv) string {
			return kit.TryFile(x.at(kit.Procs), unix.O_WRONLY, func(fd int) string {
				n, err := unix.Write(fd, nil)
				return fmt.Sprint(n, kit.Word(err))
			})
		}},
		{"write of 4096 bytes", func(x *traceEnv) string { return kit.WriteFile(x.at(kit.Procs), strings.Repeat(" ", 4096)) }},
		{"write of 4097 bytes", func(x *traceEnv) string { return kit.WriteFile(x.at(kit.Procs), strings.Repeat(" ", 4097)) }},
		{"write of 100000 bytes", func(x *traceEnv) string { return kit.WriteFile(x.at(kit.Procs), strings.Repeat(" ", 100000)) }},
		{"write of garbage", func(x *traceEnv) string { return kit.WriteFile(x.at(kit.Procs), "garbage") }},
		{"read in small pieces", func(x *traceEnv) string {
			return fmt.Sprint(strings.Count(kit.TryFile(filepath.Join(x.dir, kit.Procs), unix.O_RDONLY, func(fd int) string { return kit.ReadPieces(fd, 1) }), "\n"))
		}},
		{"read beyond the end", func(x *traceEnv) string {
			return kit.TryFile(x.at(kit.Procs), unix.O_RDONLY, func(fd int) string {
				n, err := unix.Pread(fd, make([]byte, 10), 1<<20)
				return fmt.Sprint(n, kit.Word(err))
			})
		}},
		{"read, lseek to 0, read", func(x *traceEnv) string {
			return kit.TryFile(filepath.Join(x.dir, kit.Procs), unix.O_RDONLY, func(fd int) string {
				a := kit.ReadPieces(fd, 4096)
				off, err := unix.Seek(fd, 0, 0)
				b := kit.ReadPieces(fd, 4096)
				return fmt.Sprint(a == b, off, kit.Word(err))
			})
		}},
		{"lseek to the end", func(x *traceEnv) string { return seek(x.at(kit.Procs), 0, unix.SEEK_END) }},
		{"lseek to a place", func(x *traceEnv) string { return seek(x.at(kit.Procs), 1000, unix.SEEK_SET) }},
		{"lseek to before the beginning", func(x *traceEnv) string { return seek(x.at(kit.Procs), -1, unix.SEEK_SET) }},
		{"lseek SEEK_DATA", func(x *traceEnv) string { return seek(x.at(kit.Procs), 0, unix.SEEK_DATA) }},
		{"lseek SEEK_HOLE", func(x *traceEnv) string { return seek(x.at(kit.Procs), 0, unix.SEEK_HOLE) }},
		{"read of a directory", func(x *traceEnv) string {
			return kit.TryFile(x.w, unix.O_RDONLY, func(fd int) string { _, err := unix.Read(fd, make([]byte, 10)); return kit.Word(err) })
		}},
		{"write to a reading descriptor", func(x *traceEnv) string {
			return kit.TryFile(x.at(kit.Procs), unix.O_RDONLY, func(fd int) string { _, err := unix.Write(fd, []byte("0")); return kit.Word(err) })
		}},
		{"read from a writing descriptor", func(x *traceEnv) string {
			return kit.TryFile(x.at(kit.Procs), unix.O_WRONLY, func(fd int) string { _, err := unix.Read(fd, make([]byte, 10)); return kit.Word(err) })
		}},
		{"mmap", func(x *traceEnv) string {
			return kit.TryFile(x.at(kit.Procs), unix.O_RDONLY, func(fd int) string {
				_, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ, unix.MAP_PRIVATE)
				return kit.Word(err)
			})
		}},
		{"fallocate", func(x *traceEnv) string {
			return kit.TryFile(x.at(kit.Procs), unix.O_RDWR, func(fd int) string { return kit.Word(unix.Fallocate(fd, 0, 0, 10)) })
		}},
		{"fsync", func(x *traceEnv) string {
			return kit.TryFile(x.at(kit.Procs), unix.O_RDWR, func(fd int) string { return kit.Word(unix.Fsync(fd)) })
		}},
		{"fdatasync", func(x *traceEnv) string {
			return kit.TryFile(x.at(kit.Procs), unix.O_RDWR, func(fd int) string { return kit.Word(unix.Fdatasync(fd)) })
		}},
		{"fsync of a directory", func(x *traceEnv) string {
			return kit.TryFile(x.w, unix.O_RDONLY, func(fd int) string { return kit.Word(unix.Fsync(fd)) })
		}},
		{"flock", func(x *traceEnv) string {
			return kit.TryFile(x.at(kit.Procs), unix.O_RDWR, func(fd int) string { return kit.Word(unix.Flock(fd, unix.LOCK_EX)) })
		}},
		{"fcntl lock", func(x *traceEnv) string {
			return kit.TryFile(x.at(kit.Procs), unix.O_RDWR, func(fd int) string {
				return kit.Word(unix.FcntlFlock(uintptr(fd), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}))
			})
		}},
		{"ioctl FS_IOC_GETFLAGS", func(x *traceEnv) string {
			return kit.TryFile(x.at(kit.Procs), unix.O_RDONLY, func(fd int) string { _, err := unix.IoctlGetInt(fd, unix.FS_IOC_GETFLAGS); return kit.Word(err) })
		}},
		{"ioctl of a number that is none", func(x *traceEnv) string {
			return kit.TryFile(x.at(kit.Procs), unix.O_RDONLY, func(fd int) string { _, err := unix.IoctlGetInt(fd, 0x1234); return kit.Word(err) })
		}},
		{"sendfile out", func(x *traceEnv) string {
			var p [2]int
			unix.Pipe2(p[:], unix.O_CLOEXEC)
			defer unix.Close(p[0])
			defer unix.Close(p[1])
			return kit.TryFile(filepath.Join(x.dir, kit.Procs), unix.O_RDONLY, func(fd int) string {
				n, err := unix.Sendfile(p[1], fd, nil, 4096)
				return fmt.Sprint(n > 0, kit.Word(err))
			})
		}},
		{"execute a control file", func(x *traceEnv) string {
			unix.Chmod(x.at(kit.Procs), 0o755)
			err := kit.Word(unix.Exec(x.at(kit.Procs), []string{"x"}, nil))
			unix.Chmod(x.at(kit.Procs), 0o644)
			return err
		}},
		{"append, with a place", func(x *traceEnv) string {
			return kit.TryFile(x.at(kit.Procs), unix.O_WRONLY|unix.O_APPEND, func(fd int) string {
				_, err := unix.Pwrite(fd, []byte("garbage"), 77)
				return kit.Word(err)
			})
		}},
		{"writev is one command", func(x *traceEnv) string {
			return kit.TryFile(x.at(kit.Procs), unix.O_WRONLY, func(fd int) string {
				_, err := unix.Writev(fd, [][]byte{[]byte("1x"), []byte("y")})
				return kit.Word(err)
			})
		}},
	}
}

func seek(path string, off int64, whence int) string {
	return kit.TryFile(path, unix.O_RDONLY, func(fd int) string {
		n, err := unix.Seek(fd, off, whence)
		return fmt.Sprint(n, kit.Word(err))
	})
}

func attrSteps() []step {
	return []step{
		{"stat of a directory", func(x *traceEnv) string { return kit.StatText(x.w) }},
		{"stat of a file", func(x *traceEnv) string { return kit.StatText(x.at(kit.Procs)) }},
		{"chmod of a file", func(x *traceEnv) string {
			return kit.Word(unix.Chmod(x.at(kit.Procs), 0o751)) + kit.StatText(x.at(kit.Procs))
		}},
		{"chmod of a file to 0 does not stop root", func(x *traceEnv) string {
			return kit.Word(unix.Chmod(x.at(kit.Procs), 0)) + kit.StatText(x.at(kit.Procs)) + kit.TryFile(x.at(kit.Procs), unix.O_RDWR, func(int) string { return "ok" })
		}},
		{"chmod of a file back", func(x *traceEnv) string { return kit.Word(unix.Chmod(x.at(kit.Procs), 0o644)) }},
		{"chmod of a directory", func(x *traceEnv) string { return kit.Word(unix.Chmod(x.w, 0o1700)) + kit.StatText(x.w) }},
		{"chmod of a directory back", func(x *traceEnv) string { return kit.Word(unix.Chmod(x.w, 0o755)) + kit.StatText(x.w) }},
		{"chown of a file", func(x *traceEnv) string {
			return kit.Word(unix.Chown(x.at(kit.Procs), 1000, 1001)) + kit.StatText(x.at(kit.Procs))
		}},
		{"chown of a file by another user", func(x *traceEnv) (s string) {
			kit.AsUser(1000, func() { s = kit.Word(unix.Chown(x.at(kit.Procs), 1002, -1)) })
			return s
		}},
		{"chmod of a file by its owner", func(x *traceEnv) (s string) {
			kit.AsUser(1000, func() { s = kit.Word(unix.Chmod(x.at(kit.Procs), 0o600)) + kit.StatText(x.at(kit.Procs)) })
			return s
		}},
		{"chmod of a file by another user", func(x *traceEnv) (s string) {
			kit.AsUser(1002, func() { s = kit.Word(unix.Chmod(x.at(kit.Procs), 0o600)) })
			return s
		}},
		{"open of a file by another user", func(x *traceEnv) (s string) {
			kit.AsUser(1002, func() {
				s = kit.TryFile(x.at(kit.Procs), unix.O_RDONLY, func(int) string { return "ok" }) + kit.TryFile(x.at(kit.Procs), unix.O_WRONLY, func(int) string { return "ok" })
			})
			return s
		}},
		{"access by another user", func(x *traceEnv) (s string) {
			kit.AsUser(1002, func() { s = kit.Word(unix.Faccessat(unix.AT_FDCWD, x.at(kit.Procs), unix.R_OK, unix.AT_EACCESS)) })
			return s
		}},
		{"chown of a file back", func(x *traceEnv) string {
			return kit.Word(unix.Chown(x.at(kit.Procs), 0, 0)) + kit.Word(unix.Chmod(x.at(kit.Procs), 0o644)) + kit.StatText(x.at(kit.Procs))
		}},
		{"chown of a directory", func(x *traceEnv) string {
			return kit.Word(unix.Chown(x.w, 1000, 1001)) + kit.StatText(x.w) + kit.StatText(x.at(kit.Procs))
		}},
		{"chown of a directory back", func(x *traceEnv) string { return kit.Word(unix.Chown(x.w, 0, 0)) + kit.StatText(x.w) }},
		{"utimes of a file", func(x *traceEnv) string { return setTimes(x.at(kit.Procs)) }},
		{"utimes of a directory", func(x *traceEnv) string { return setTimes(x.w) }},
		{"chmod and chown change the time of change", func(x *traceEnv) (s string) {
			for _, path := range []string{x.w, x.at(kit.Procs)} {
				for _, do := range []func() error{
					func() error { return unix.Chmod(path, 0o755) }, func() error { return unix.Chown(path, 0, 0) },
				} {
					ctime, mtime := changed(path)
					time.Sleep(15 * time.Millisecond) // more than a tick, by which the kernel counts such times
					s += kit.Word(do())
					ctime2, mtime2 := changed(path)
					s += fmt.Sprint(ctime2 > ctime, mtime2 == mtime, " ")
				}
			}
			return s + kit.Word(unix.Chmod(x.at(kit.Procs), 0o644))
		}},
		{"O_TRUNC changes the time of modification", func(x *traceEnv) string {
			_, before := changed(x.at(kit.Procs))
			time.Sleep(15 * time.Millisecond)
			kit.TryFile(x.at(kit.Procs), unix.O_WRONLY|unix.O_TRUNC, func(int) string { return "" })
			_, after := changed(x.at(kit.Procs))
			return fmt.Sprint(after > before)
		}},
		{"a write leaves the time", func(x *traceEnv) string {
			before := timesOf(x.at(kit.Procs))
			time.Sleep(15 * time.Millisecond)
			kit.WriteFile(x.at(kit.Procs), "garbage")
			return fmt.Sprint(timesOf(x.at(kit.Procs)) == before)
		}},
		{"statfs: sizes", func(x *traceEnv) string {
			var s unix.Statfs_t
			err := unix.Statfs(x.w, &s)
			return fmt.Sprint(s.Bsize, s.Frsize, s.Blocks, s.Bfree, s.Bavail, s.Files, s.Ffree, s.Namelen, kit.Word(err))
		}},
		{"statfs: type", func(x *traceEnv) string {
			var s unix.Statfs_t
			unix.Statfs(x.w, &s)
			return fmt.Sprintf("%x", s.Type)
		}},
		{"readdir: types and inode numbers", func(x *traceEnv) string { return kit.Listing(x.w) }},
		{"readdir: inode numbers of . and ..", func(x *traceEnv) string {
			kit.Mkdir(x.at("dots"), 0o755)
			defer kit.Rmdir(x.at("dots"))
			return dots(x.w) + dots(x.at("dots"))
		}},
		{"handle: name_to_handle_at", func(x *traceEnv) string {
			h, _, err := unix.NameToHandleAt(unix.AT_FDCWD, x.w, 0)
			if err == nil {
				return fmt.Sprintf("%x %d", h.Type(), h.Size())
			}
			return kit.ErrnoName(err)
		}},
		{"pathconf: O_PATH of a directory and fstat", func(x *traceEnv) string {
			return kit.TryFile(x.w, unix.O_PATH, func(fd int) string {
				var st unix.Stat_t
				return fmt.Sprintf("%s %o", kit.Word(unix.Fstat(fd, &st)), st.Mode)
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
	return fmt.Sprint(kit.Word(err), st.Mtim.Sec, st.Mtim.Nsec)
}

// dots compares the inode numbers of "." and ".." in a listing with those of stat.
func dots(dir string) string {
	return kit.TryFile(dir, unix.O_RDONLY|unix.O_DIRECTORY, func(fd int) string {
		buf := make([]byte, 4096)
		n, err := unix.Getdents(fd, buf)
		if err != nil {
			return kit.ErrnoName(err)
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
		return fmt.Sprintf("%s %q", kit.Word(err), buf[:max(n, 0)])
	}
	return []step{
		{"xattr: get of one that is not set", func(x *traceEnv) string { return get(x.w, "user.a") }},
		{"xattr: set and get", func(x *traceEnv) string {
			return kit.Word(unix.Setxattr(x.w, "user.a", []byte("1"), 0)) + get(x.w, "user.a")
		}},
		{"xattr: set anew", func(x *traceEnv) string {
			return kit.Word(unix.Setxattr(x.w, "user.a", []byte("22"), 0)) + get(x.w, "user.a")
		}},
		{"xattr: XATTR_CREATE of one that is there", func(x *traceEnv) string { return kit.Word(unix.Setxattr(x.w, "user.a", nil, unix.XATTR_CREATE)) }},
		{"xattr: XATTR_REPLACE of one that is not", func(x *traceEnv) string { return kit.Word(unix.Setxattr(x.w, "user.b", nil, unix.XATTR_REPLACE)) }},
		{"xattr: get into too little room", func(x *traceEnv) string {
			_, err := unix.Getxattr(x.w, "user.a", make([]byte, 1))
			return kit.Word(err)
		}},
		{"xattr: size", func(x *traceEnv) string {
			n, err := unix.Getxattr(x.w, "user.a", nil)
			return fmt.Sprint(n, kit.Word(err))
		}},
		{"xattr: list", func(x *traceEnv) string {
			b := make([]byte, 100)
			n, err := unix.Listxattr(x.w, b)
			return fmt.Sprintf("%q %s", b[:max(n, 0)], kit.Word(err))
		}},
		{"xattr: list into too little room", func(x *traceEnv) string { _, err := unix.Listxattr(x.w, make([]byte, 2)); return kit.Word(err) }},
		{"xattr: on a file", func(x *traceEnv) string {
			return kit.Word(unix.Setxattr(x.at(kit.Procs), "user.f", []byte("f"), 0)) + get(x.at(kit.Procs), "user.f")
		}},
		{"xattr: trusted", func(x *traceEnv) string {
			return kit.Word(unix.Setxattr(x.w, "trusted.t", []byte("t"), 0)) + get(x.w, "trusted.t") + kit.Word(unix.Removexattr(x.w, "trusted.t"))
		}},
		{"xattr: remove", func(x *traceEnv) string { return kit.Word(unix.Removexattr(x.w, "user.a")) + get(x.w, "user.a") }},
		{"xattr: remove of one that is not set", func(x *traceEnv) string { return kit.Word(unix.Removexattr(x.w, "user.a")) }},
		{"xattr: system.posix_acl_access", func(x *traceEnv) string {
			return kit.Word(unix.Setxattr(x.w, "system.posix_acl_access", []byte("1"), 0))
		}},
		{"xattr: a name space that is none", func(x *traceEnv) string { return kit.Word(unix.Setxattr(x.w, "nowhere.a", []byte("1"), 0)) }},
		{"xattr: security", func(x *traceEnv) string { return kit.Word(unix.Setxattr(x.w, "security.a", []byte("1"), 0)) }},
		{"xattr: as another user", func(x *traceEnv) (s string) {
			kit.AsUser(1000, func() { s = kit.Word(unix.Setxattr(x.w, "user.z", []byte("1"), 0)) + get(x.w, "user.z") })
			return s
		}},
		{"xattr: names with nothing after the prefix", func(x *traceEnv) (s string) {
			names := []string{"user.", "trusted."}
			if !x.hier.View { // a guest's root owns the file systems that it mounts, and may then set security.* (cap_inode_setxattr)
				names = append(names, "security.")
			}
			for _, name := range names {
				s += name + " " + get(x.w, name) + kit.Word(unix.Setxattr(x.w, name, []byte("1"), 0)) + kit.Word(unix.Removexattr(x.w, name)) + "; "
			}
			kit.AsUser(1000, func() { s += get(x.w, "trusted.") + kit.Word(unix.Setxattr(x.w, "trusted.", nil, 0)) })
			return s
		}},
		{"xattr: names of up to 256 bytes", func(x *traceEnv) (s string) {
			for _, size := range []int{230, 235, 236, 254, 255, 256} {
				for _, prefix := range []string{"user.", "trusted."} {
					name := prefix + strings.Repeat("n", size-len(prefix))
					s += fmt.Sprint(size, " ")
					for _, flags := range []int{unix.XATTR_REPLACE, unix.XATTR_CREATE, unix.XATTR_CREATE, 0} {
						s += kit.Word(unix.Setxattr(x.w, name, []byte("33"), flags)) + " "
					}
					s += get(x.w, name) + attrNames(x.w)
					s += kit.Word(unix.Removexattr(x.w, name)) + kit.Word(unix.Removexattr(x.w, name)) + attrNames(x.w)
				}
			}
			return s
		}},
		{"xattr: trusted names are listed to root alone", func(x *traceEnv) (s string) {
			for _, name := range []string{"user.open", "trusted.secret", "trusted." + strings.Repeat("n", 247)} {
				s += kit.Word(unix.Setxattr(x.w, name, []byte("1"), 0))
			}
			s += attrNames(x.w)
			kit.AsUser(1000, func() { s += attrNames(x.w) + get(x.w, "trusted.secret") })
			for _, name := range []string{"user.open", "trusted.secret", "trusted." + strings.Repeat("n", 247)} {
				s += kit.Word(unix.Removexattr(x.w, name))
			}
			return s + attrNames(x.w)
		}},
		{"xattr: more than there is room for", func(x *traceEnv) string {
			n := 0
			for ; n < 200; n++ {
				if err := unix.Setxattr(x.w, fmt.Sprintf("user.n%d", n), []byte("1"), 0); err != nil {
					return kit.ErrnoName(err)
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
	return fmt.Sprint(len(names), names, kit.Word(err))
}

func removedSteps() []step {
	return []step{
		{"removed: set-up", func(x *traceEnv) string {
			s := kit.Mkdir(x.at("gone"), 0o755)
			x.fds["file"], _ = unix.Open(x.at("gone/"+kit.Procs), unix.O_RDWR|unix.O_CLOEXEC, 0)
			x.fds["read"], _ = unix.Open(x.at("gone/"+kit.Procs), unix.O_RDONLY|unix.O_CLOEXEC, 0)
			x.fds["path"], _ = unix.Open(x.at("gone/"+kit.Procs), unix.O_PATH|unix.O_CLOEXEC, 0)
			x.fds["dir"], _ = unix.Open(x.at("gone"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
			return s + kit.Rmdir(x.at("gone"))
		}},
		{"removed: read of an open file", func(x *traceEnv) string {
			_, err := unix.Pread(x.fds["file"], make([]byte, 10), 0)
			return kit.Word(err)
		}},
		{"removed: write to an open file", func(x *traceEnv) string { _, err := unix.Write(x.fds["file"], []byte("0")); return kit.Word(err) }},
		{"removed: fstat of an open file", func(x *traceEnv) string {
			var st unix.Stat_t
			s := ""
			for _, name := range []string{"file", "read"} {
				s += fmt.Sprintf("%s %o %d:%d ", kit.Word(unix.Fstat(x.fds[name], &st)), st.Mode, st.Uid, st.Gid)
			}
			return s
		}},
		{"removed: an open file opened again", func(x *traceEnv) string {
			return reopened(x.fds["file"]) + " " + reopened(x.fds["read"]) + " " + reopened(x.fds["path"])
		}},
		{"removed: directory opened again", func(x *traceEnv) string { return reopened(x.fds["dir"]) }},
		{"removed: a file that is bound", func(x *traceEnv) string {
			s := kit.Mkdir(x.at("gone"), 0o755)
			at := kit.FileWith(x.t, "")
			if err := unix.Mount(x.at("gone/"+kit.Procs), at, "", unix.MS_BIND, ""); err != nil {
				return kit.ErrnoName(err)
			}
			defer unix.Unmount(at, unix.MNT_DETACH)
			return s + kit.ReadFile(at) + kit.Rmdir(x.at("gone")) + kit.ReadFile(at) + kit.WriteFile(at, "0")
		}},
		{"removed: readdir", func(x *traceEnv) string {
			n, err := unix.Getdents(x.fds["dir"], make([]byte, 1000))
			return fmt.Sprint(n > 60, kit.Word(err))
		}},
		{"removed: openat", func(x *traceEnv) string {
			_, err := unix.Openat(x.fds["dir"], kit.Procs, unix.O_RDONLY, 0)
			return kit.Word(err)
		}},
		{"removed: mkdirat", func(x *traceEnv) string { return kit.Word(unix.Mkdirat(x.fds["dir"], "x", 0o755)) }},
		{"removed: fstat", func(x *traceEnv) string {
			var st unix.Stat_t
			return fmt.Sprintf("%s %o", kit.Word(unix.Fstat(x.fds["dir"], &st)), st.Mode)
		}},
		{"removed: fchmod of a file", func(x *traceEnv) string { return kit.Word(unix.Fchmod(x.fds["file"], 0o600)) }},
		{"removed: fchown of a file", func(x *traceEnv) string { return kit.Word(unix.Fchown(x.fds["file"], 1, 2)) }},
		{"removed: ftruncate of a file", func(x *traceEnv) string { return kit.Word(unix.Ftruncate(x.fds["file"], 0)) }},
		{"removed: fstat of a file", func(x *traceEnv) string {
			var st unix.Stat_t
			return fmt.Sprintf("%s %o size %d", kit.Word(unix.Fstat(x.fds["file"], &st)), st.Mode&unix.S_IFMT, st.Size)
		}},
		{"removed: fchmod of the directory", func(x *traceEnv) string { return kit.Word(unix.Fchmod(x.fds["dir"], 0o700)) }},
		{"removed: fchown of the directory", func(x *traceEnv) string { return kit.Word(unix.Fchown(x.fds["dir"], 1, 2)) }},
		{"removed: stat", func(x *traceEnv) string { return kit.StatText(x.at("gone")) }},
		{"removed: made anew", func(x *traceEnv) string {
			return kit.Mkdir(x.at("gone"), 0o755) + kit.ReadFile(x.at("gone/"+kit.Procs)) + kit.Rmdir(x.at("gone"))
		}},
	}
}

// notifySteps are what a guest's inotify sees of its own doings.
func notifySteps() []step {
	watch := func(name string, mask uint32, path string, do func(x *traceEnv)) step {
		return step{"inotify: " + name, func(x *traceEnv) string {
			fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
			if err != nil {
				return kit.ErrnoName(err)
			}
			defer unix.Close(fd)
			if _, err := unix.InotifyAddWatch(fd, x.at(path), mask); err != nil {
				return kit.ErrnoName(err)
			}
			do(x)
			return kit.ReadInotify(fd)
		}}
	}
	return []step{
		watch("a write", unix.IN_MODIFY|unix.IN_CLOSE_WRITE, kit.Procs, func(x *traceEnv) { kit.WriteFile(x.at(kit.Procs), strings.Repeat(" ", 4)+"x") }),
		watch("mkdir and rmdir", unix.IN_CREATE|unix.IN_DELETE, "", func(x *traceEnv) { kit.Mkdir(x.at("i"), 0o755); kit.Rmdir(x.at("i")) }),
		watch("chmod", unix.IN_ATTRIB, kit.Procs, func(x *traceEnv) { unix.Chmod(x.at(kit.Procs), 0o644) }),
		watch("open and read", unix.IN_OPEN|unix.IN_ACCESS|unix.IN_CLOSE_NOWRITE, kit.Procs, func(x *traceEnv) { kit.ReadFile(x.at(kit.Procs)) }),
	}
}
