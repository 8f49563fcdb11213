package kit

import (
	"fmt"
	"maps"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// playFlood is a process of a flood: "KIND THREADS LEAST DIRECTORY". It prints "ready" when it has all its threads; at
// a line of input they begin, and each does the same again and again, LEAST times at least, until the input ends; then
// the process prints how often each errno came of it. From their beginning to that end neither the threads nor the
// first one, which tells them, need Go's scheduler or its locks: whoever holds one of those would be starved by the
// others.
func playFlood(arg string) {
	var kind, dir string
	var threads, least int
	if n, _ := fmt.Sscan(arg, &kind, &threads, &least, &dir); n != 4 {
		panic(arg)
	}
	unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 1 << 20, Max: 1 << 20})
	runtime.GOMAXPROCS(threads + 4)
	runtime.LockOSThread()
	// this thread's: it hears that the flood is to end, whoever else wants the processors
	unix.Setpriority(unix.PRIO_PROCESS, 0, -20)
	var gate [2]int
	if err := unix.Pipe2(gate[:], unix.O_CLOEXEC); err != nil {
		panic(err)
	}
	var stop atomic.Bool
	ready, results := make(chan bool, threads), make(chan map[unix.Errno]int)
	for i := range threads {
		f := flooder{dir: dir, name: filepath.Join(dir, "f"+strconv.Itoa(i)), stop: &stop, least: least,
			got: map[unix.Errno]int{}}
		go func() {
			runtime.LockOSThread()
			ready <- true
			rawRead(gate[0]) // until the first thread closes the other end
			f.play(kind)
			results <- f.got
		}()
	}
	for range threads {
		<-ready
	}
	fmt.Println("ready")
	rawRead(unix.Stdin)
	unix.RawSyscall(unix.SYS_CLOSE, uintptr(gate[1]), 0, 0)
	if kind == "hold" { // until no thread gets another
		sum(results, threads)
	} else {
		flooding := []byte("flooding\n")
		unix.RawSyscall(unix.SYS_WRITE, uintptr(unix.Stdout), uintptr(unsafe.Pointer(&flooding[0])), uintptr(len(flooding)))
	}
	for rawRead(unix.Stdin) > 0 {
	}
	if kind == "hold" {
		return // the kernel closes what is held
	}
	stop.Store(true)
	sum(results, threads)
}

// rawRead reads a byte, unless none ever comes.
func rawRead(fd int) (n uintptr) {
	var b [1]byte
	n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), 1)
	if errno != 0 {
		return 0
	}
	return n
}

// sum adds up what the threads got and prints it on one line.
func sum(results chan map[unix.Errno]int, threads int) {
	all := map[unix.Errno]int{}
	for range threads {
		for errno, n := range <-results {
			all[errno] += n
		}
	}
	var words []string
	for _, errno := range slices.Sorted(maps.Keys(all)) {
		name := "ok"
		if errno != 0 {
			name = ErrnoName(errno)
		}
		words = append(words, fmt.Sprint(name, " ", all[errno]))
	}
	fmt.Println(strings.Join(words, " "))
}

// flooder is one thread of a flood.
type flooder struct {
	dir, name string
	stop      *atomic.Bool
	least     int
	got       map[unix.Errno]int
}

// goesOn says whether to do it once more.
func (f *flooder) goesOn() bool {
	f.least--
	return f.least >= 0 || !f.stop.Load()
}

func (f *flooder) play(kind string) {
	file, small, large := cString(filepath.Join(f.dir, "pids.max")), make([]byte, 4095), make([]byte, 64<<10)
	for i := range large {
		large[i] = 'x'
	}
	copy(small, large)
	dir := cString(f.name)
	switch kind {
	case "open":
		for f.goesOn() {
			fd, errno := rawOpen(file, unix.O_RDONLY)
			f.got[errno]++
			if errno == 0 {
				unix.RawSyscall(unix.SYS_READ, fd, uintptr(unsafe.Pointer(&small[0])), 64)
				unix.RawSyscall(unix.SYS_CLOSE, fd, 0, 0)
			}
		}
	case "mkdir":
		for f.goesOn() {
			_, _, errno := unix.RawSyscall(unix.SYS_MKDIRAT, atCwd, uintptr(unsafe.Pointer(dir)), 0o755)
			f.got[errno]++
			if errno == 0 {
				_, _, errno = unix.RawSyscall(unix.SYS_UNLINKAT, atCwd, uintptr(unsafe.Pointer(dir)), unix.AT_REMOVEDIR)
				f.got[errno]++
			}
		}
	case "write":
		fd, errno := rawOpen(file, unix.O_WRONLY)
		for errno == 0 && f.goesOn() {
			for _, text := range [][]byte{small, large} {
				_, _, errno := unix.RawSyscall(unix.SYS_WRITE, fd, uintptr(unsafe.Pointer(&text[0])), uintptr(len(text)))
				f.got[errno]++
			}
		}
	case "attributes":
		f.playAttributes(dir)
	case "times":
		f.playTimes()
	case "names":
		for n := 0; f.goesOn(); n++ {
			_, _, errno := unix.RawSyscall(unix.SYS_FACCESSAT, atCwd,
				uintptr(unsafe.Pointer(cString(f.name+"-"+strconv.Itoa(n)))), 0)
			f.got[errno]++
		}
	case "list":
		for f.goesOn() {
			fd, errno := rawOpen(cString(f.dir), unix.O_RDONLY|unix.O_DIRECTORY)
			f.got[errno]++
			if errno == 0 {
				for n := uintptr(1); n > 0 && errno == 0; {
					n, _, errno = unix.RawSyscall(unix.SYS_GETDENTS64, fd, uintptr(unsafe.Pointer(&large[0])), uintptr(len(large)))
				}
				unix.RawSyscall(unix.SYS_CLOSE, fd, 0, 0)
			}
		}
	case "refused":
		file := cString(filepath.Join(filepath.Dir(filepath.Dir(f.dir)), "pids.max"))
		for f.goesOn() {
			_, errno := rawOpen(file, unix.O_WRONLY)
			f.got[errno]++
		}
	case "hold":
		for errno := unix.Errno(0); errno == 0; {
			_, errno = rawOpen(file, unix.O_RDWR)
			f.got[errno]++
		}
	case "hoard": // and goes on asking
		for f.goesOn() {
			_, errno := rawOpen(file, unix.O_RDONLY)
			f.got[errno]++
		}
	case "watch":
		f.playWatch()
	}
}

// playWatch watches every file of a cgroup and of those above it, and ends all the watches.
func (f *flooder) playWatch() {
	var paths []*byte
	for _, above := range []string{"", "..", "../.."} {
		files, _ := filepath.Glob(filepath.Join(f.dir, above, "*"))
		for _, file := range files {
			paths = append(paths, cString(file))
		}
	}
	for f.goesOn() {
		fd, _, errno := unix.RawSyscall(unix.SYS_INOTIFY_INIT1, unix.IN_CLOEXEC, 0, 0)
		f.got[errno]++
		if errno != 0 {
			continue
		}
		for _, path := range paths {
			_, _, errno := unix.RawSyscall(unix.SYS_INOTIFY_ADD_WATCH, fd, uintptr(unsafe.Pointer(path)), unix.IN_MODIFY)
			f.got[errno]++
		}
		unix.RawSyscall(unix.SYS_CLOSE, fd, 0, 0)
	}
}

// playAttributes sets attributes on a cgroup of its own until there is no room, and begins anew.
func (f *flooder) playAttributes(dir *byte) {
	value := make([]byte, 1000)
	unix.RawSyscall(unix.SYS_MKDIRAT, atCwd, uintptr(unsafe.Pointer(dir)), 0o755)
	for n := 0; f.goesOn(); n++ {
		name := cString("user.n" + strconv.Itoa(n%100))
		_, _, errno := unix.RawSyscall6(unix.SYS_SETXATTR, uintptr(unsafe.Pointer(dir)), uintptr(unsafe.Pointer(name)),
			uintptr(unsafe.Pointer(&value[0])), uintptr(1+n*7%len(value)), 0, 0)
		f.got[errno]++
		if n%250 == 249 {
			unix.RawSyscall(unix.SYS_UNLINKAT, atCwd, uintptr(unsafe.Pointer(dir)), unix.AT_REMOVEDIR)
			unix.RawSyscall(unix.SYS_MKDIRAT, atCwd, uintptr(unsafe.Pointer(dir)), 0o755)
		}
	}
}

// playTimes gives every file of a cgroup times and an owner.
func (f *flooder) playTimes() {
	files, _ := filepath.Glob(filepath.Join(f.dir, "*"))
	for n := 0; f.goesOn(); n++ {
		path := cString(files[n%len(files)])
		_, _, errno := unix.RawSyscall6(unix.SYS_UTIMENSAT, atCwd, uintptr(unsafe.Pointer(path)), 0, 0, 0, 0)
		f.got[errno]++
		_, _, errno = unix.RawSyscall6(unix.SYS_FCHOWNAT, atCwd, uintptr(unsafe.Pointer(path)), uintptr(n%7), uintptr(n%5),
			0, 0)
		f.got[errno]++
	}
}

// atCwd is AT_FDCWD as an argument of a system call.
const atCwd = ^uintptr(99)

func cString(s string) *byte {
	b, _ := unix.BytePtrFromString(s)
	return b
}

func rawOpen(path *byte, flags int) (uintptr, unix.Errno) {
	fd, _, errno := unix.RawSyscall6(unix.SYS_OPENAT, atCwd, uintptr(unsafe.Pointer(path)),
		uintptr(flags|unix.O_CLOEXEC), 0, 0, 0)
	return fd, errno
}
