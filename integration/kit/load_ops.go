package kit

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/hierarchy"
)

// reads opens, reads and closes files whose content is known to the byte.
func (w *worker) reads() {
	files := []struct{ name, text string }{
		{"stay/" + Procs, strconv.Itoa(w.resident) + "\n"}, {"stay/pids.current", "1\n"}, {"stay/pids.max", "1000\n"},
		{"written/" + Procs, ""},
	}
	for w.goesOn() {
		for _, f := range files {
			w.wantFile("read", f.name, f.text)
		}
	}
}

// wantFile reads a file through the view and compares.
func (w *worker) wantFile(kind, name, want string) {
	var got string
	err := w.op(kind, func() (err error) { got, err = Slurp(w.At(name)); return })
	if err == nil && got != want {
		w.fail(kind, "%s is %q, want %q", name, got, want)
	}
}

// open opens a file that is to stay open, -1 when that failed.
func (w *worker) open(path string, flags int) (fd int) {
	for err := errAborted; err == errAborted; {
		err = w.op("open", func() (err error) { fd, err = unix.Open(path, flags|unix.O_CLOEXEC, 0); return })
		if err != nil {
			fd = -1
		}
	}
	return fd
}

// keptReads is how often a kept descriptor is read between two writes.
const keptReads = 16

// keeps reads and writes through descriptors that are open all the time: what is read is always what was written last.
// Where the kernel reads the host's file by itself for the one that only reads, it asks the server for the one that
// writes too.
func (w *worker) keeps() {
	const file = "kept/pids.max"
	reader, writer := w.open(w.At(file), unix.O_RDONLY), w.open(w.At(file), unix.O_RDWR)
	defer unix.Close(reader)
	defer unix.Close(writer)
	value := "max\n"
	for n := 1; w.goesOn(); n++ {
		value = w.write("kept write", file, value, n, func(text []byte) error {
			_,
				err := unix.Pwrite(writer, text, 0)
			return err
		})
		for range keptReads {
			w.wantKept("kept read", reader, value)
			w.wantKept("kept r/w read", writer, value)
		}
	}
}

func (w *worker) wantKept(kind string, fd int, want string) {
	var got string
	err := w.op(kind, func() (err error) { got, err = pread(fd); return })
	if err == nil && got != want {
		w.fail(kind, "%q, want %q", got, want)
	}
}

// write writes a number to a file that has old, and says what the file has after it, by the host's own.
func (w *worker) write(kind, file, old string, n int, do func(text []byte) error) string {
	value := strconv.Itoa(n % 1000000)
	err := w.op(kind, func() error { return do([]byte(value)) })
	got := ReadFile(w.Native(file))
	if got != value+"\n" && (err == nil || got != old) {
		w.fail(kind, "%s was to be %s and is %q on the host", file, value, got)
	}
	return got
}

// writes writes numbers and reads each back.
func (w *worker) writes() {
	const file = "written/pids.max"
	value := "max\n"
	for n := 1; w.goesOn(); n++ {
		value = w.write("write", file, value, n, func(text []byte) error {
			return WithFile(w.At(file), unix.O_WRONLY, func(fd int) error { _, err := unix.Write(fd, text); return err })
		})
		w.wantFile("read back", file, value)
	}
}

// change does an operation that makes, removes or renames. It says whether it happened, as the host's own tree has it,
// and one that succeeded must have.
func (w *worker) change(kind string, do func() error, happened func() bool) bool {
	err := w.op(kind, do)
	for aborted := err; aborted == errAborted; {
		// The next worker finishes what this one had begun before it answers anything new.
		aborted = w.op("stat", func() error {
			var st unix.Stat_t
			return unix.Lstat(w.At("many"), &st)
		})
	}
	ok := happened()
	if err == nil && !ok {
		w.fail(kind, "it succeeded, and the host knows nothing of it")
	}
	return ok
}

// mkdirs makes, on v1 renames, and removes cgroups, in the directory that is listed.
func (w *worker) mkdirs() {
	for n := 0; w.goesOn(); n++ {
		name := "many/d" + strconv.Itoa(n%5)
		if !w.change("mkdir", func() error { return unix.Mkdir(w.At(name), 0o755) },
			func() bool { return Exists(w.Native(name)) }) {
			continue
		}
		w.wantThere(name, true)
		if w.Pids.Version == hierarchy.V1 {
			to := strings.Replace(name, "/d", "/r", 1)
			if w.change("rename", func() error { return unix.Rename(w.At(name), w.At(to)) },
				func() bool { return Exists(w.Native(to)) && !Exists(w.Native(name)) }) {
				w.wantThere(name, false)
				name = to
			}
		}
		if w.change("rmdir", func() error { return unix.Rmdir(w.At(name)) }, func() bool { return !Exists(w.Native(name)) }) {
			w.wantThere(name, false)
		} else {
			unix.Rmdir(w.Native(name)) // so that one failure is not every later mkdir's too
		}
	}
}

// wantThere looks a name up through the view.
func (w *worker) wantThere(name string, there bool) {
	w.op("stat", func() error {
		var st unix.Stat_t
		err := unix.Lstat(w.At(name), &st)
		if !there && err == nil {
			return fmt.Errorf("%s is still there", name)
		}
		if !there && err == unix.ENOENT {
			return nil
		}
		return err
	})
}

// moves moves a process to and fro.
func (w *worker) moves() {
	pid := strconv.Itoa(w.mover)
	for n := 1; w.goesOn(); n++ {
		to := []string{"from", "to"}[n%2]
		if w.change("move", func() error { return WriteFileErr(w.At(to, Procs), pid) }, func() bool {
			at, err := w.Pids.PathOf(w.mover)
			return err == nil && at == w.Path+"/"+to
		}) {
			w.wantFile("members", filepath.Join(to, Procs), pid+"\n")
		}
	}
}

// xattrs sets, replaces and removes an attribute, of the name space that the tree takes: on v1 user.* is not one.
func (w *worker) xattrs() {
	dir, name := w.At("attributes"), "user.load"
	if unix.Setxattr(w.Native("attributes"), name, nil, 0) != nil {
		name = "trusted.load"
	}
	unix.Removexattr(w.Native("attributes"), name)
	get := func() string {
		buf := make([]byte, 64)
		n, err := unix.Getxattr(dir, name, buf)
		if err != nil {
			return ErrnoName(err)
		}
		return string(buf[:n])
	}
	// want reads the attribute until it is not aborted; it is what the host has, for only this worker sets it.
	want := func(values ...string) {
		var got string
		err := w.op("getxattr", func() error {
			if got = get(); got == "ECONNABORTED" {
				return unix.ECONNABORTED
			}
			return nil
		})
		if err == nil && !slices.Contains(values, got) {
			w.fail("getxattr", "%q, want one of %q", got, values)
		}
	}
	for n := 0; w.goesOn(); n++ {
		a, b := "a"+strconv.Itoa(n), "b"+strconv.Itoa(n)
		if w.op("setxattr", func() error { return unix.Setxattr(dir, name, []byte(a), unix.XATTR_CREATE) }) == nil {
			want(a)
			if w.op("setxattr", func() error { return unix.Setxattr(dir, name, []byte(b), unix.XATTR_REPLACE) }) == nil {
				want(b)
			} else {
				want(a, b)
			}
		}
		switch err := w.op("removexattr", func() error {
			err := unix.Removexattr(dir, name)
			if w.tolerant && err == unix.ENODATA {
				return nil // what was to make it was aborted
			}
			return err
		}); {
		case err == nil:
			want("ENODATA")
		case errors.Is(err, errAborted) && get() != "ENODATA":
			unix.Removexattr(dir, name)
		}
	}
}

// lists lists a directory in small pieces while others are made, renamed and removed in it: what was there all the time
// is in each listing, and nothing is there twice.
func (w *worker) lists() {
	for w.goesOn() {
		var names []string
		if w.op("list", func() (err error) { names, err = readNames(w.At("many")); return }) != nil {
			continue
		}
		slices.Sort(names)
		if n := len(slices.Compact(slices.Clone(names))); n != len(names) {
			w.fail("list", "%d names and only %d different ones", len(names), n)
		}
		missing := 0
		for i := range w.entries {
			if _, ok := slices.BinarySearch(names, entryName(i)); !ok {
				missing++
			}
		}
		if missing > 0 {
			w.fail("list", "%d cgroups are missing", missing)
		}
	}
}

// readNames reads a directory with a buffer that takes many calls.
func readNames(dir string) (names []string, err error) {
	err = WithFile(dir, unix.O_RDONLY|unix.O_DIRECTORY, func(fd int) error {
		buf := make([]byte, 1024)
		for {
			n, err := unix.Getdents(fd, buf)
			if n <= 0 {
				return err
			}
			_, _, names = unix.ParseDirent(buf[:n], -1, names)
		}
	})
	return names, err
}
