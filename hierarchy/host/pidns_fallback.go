package host

import (
	"bytes"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Before Linux 6.11 no call translates a pid. /proc/<pid>/status has the numbers of a task in its own namespace and
// in every one above it (NSpid and NStgid, Linux 4.1), and NS_GET_PARENT leads from a namespace to the one above it
// (Linux 4.9). To find a number in a namespace the server reads the status of every task, at a cost proportional to
// the tasks of the host.

// maxPidnsDepth is MAX_PID_NS_LEVEL (include/linux/pid_namespace.h).
const maxPidnsDepth = 32

// pidnsDepth counts the generations from the namespace own down to that of fd. EPERM if that one is not below own.
func pidnsDepth(fd int, own uint64) (int, error) {
	for depth := range maxPidnsDepth + 1 {
		inode, err := pidnsAncestor(fd, depth)
		if err != nil {
			return 0, err
		}
		if inode == own {
			return depth, nil
		}
	}
	return 0, unix.EPERM
}

// pidnsAncestor returns the inode number of the namespace so many generations above that of fd. EPERM if that is not
// at or below the server's own (pidns_get_parent).
func pidnsAncestor(fd, generations int) (uint64, error) {
	at := fd
	for range generations {
		parent, err := unix.IoctlRetInt(at, unix.NS_GET_PARENT)
		if at != fd {
			unix.Close(at)
		}
		if err != nil {
			return 0, err
		}
		at = parent
	}
	if at != fd {
		defer unix.Close(at)
	}
	var st unix.Stat_t
	if err := unix.Fstat(at, &st); err != nil {
		return 0, err
	}
	return st.Ino, nil
}

// pidNumbers are a task's numbers in /proc/<pid>/status, from the server's namespace to the task's own.
type pidNumbers struct {
	pids, tgids []int
	threads     int
}

func parsePidNumbers(status []byte) pidNumbers {
	var n pidNumbers
	for line := range bytes.Lines(status) {
		key, rest, ok := bytes.Cut(line, []byte{':'})
		if !ok {
			continue
		}
		switch string(key) {
		case "NSpid":
			n.pids = parseInts(rest)
		case "NStgid":
			n.tgids = parseInts(rest)
		case "Threads":
			if v := parseInts(rest); len(v) == 1 {
				n.threads = v[0]
			}
		}
	}
	return n
}

// parseInts parses numbers between blanks, up to the first other word.
func parseInts(b []byte) []int {
	var out []int
	for word := range bytes.FieldsSeq(b) {
		v, err := strconv.Atoi(string(word))
		if err != nil {
			break
		}
		out = append(out, v)
	}
	return out
}

func readPidNumbers(dir string) (pidNumbers, error) {
	raw, err := os.ReadFile(dir + "/status")
	if err != nil {
		return pidNumbers{}, err
	}
	return parsePidNumbers(raw), nil
}

// toHostByScan searches nr in every process that may be in ns, then in their other threads.
func (ns *PidNamespace) toHostByScan(nr int, thread bool) (int, error) {
	all, err := numericNames("/proc")
	if err != nil {
		return 0, err
	}
	if ns.own {
		// No search: the number is the name, for threads too.
		all = []string{strconv.Itoa(nr)}
	}
	var manyThreads []string
	for _, name := range all {
		n, err := readPidNumbers("/proc/" + name)
		if err != nil || len(n.pids) <= ns.depth {
			continue
		}
		if n.pids[ns.depth] == nr {
			if pid, ok := ns.confirm(name, nr, thread); ok {
				return pid, nil
			}
		} else if n.threads != 1 {
			manyThreads = append(manyThreads, name)
		}
	}
	for _, name := range manyThreads {
		tids, err := numericNames("/proc/" + name + "/task")
		if err != nil {
			continue
		}
		for _, tid := range tids {
			n, err := readPidNumbers("/proc/" + name + "/task/" + tid)
			if err != nil || len(n.pids) <= ns.depth || n.pids[ns.depth] != nr {
				continue
			}
			if pid, ok := ns.confirm(tid, nr, thread); ok {
				return pid, nil
			}
		}
	}
	return 0, unix.ESRCH
}

// confirm reports that the task has the number nr in ns, and returns the server's number. It reads both by one
// descriptor, which stays with the task even if the number is reused.
func (ns *PidNamespace) confirm(tid string, nr int, thread bool) (int, bool) {
	proc, err := openProc(tid)
	if err != nil {
		return 0, false
	}
	defer unix.Close(proc)
	n, ok := ns.numbersOf(proc)
	if !ok || n.pids[ns.depth] != nr {
		return 0, false
	}
	if thread {
		return n.pids[0], true
	}
	return n.tgids[0], true
}

// fromHostByStatus returns the number in ns of a task of the server's, 0 if ns does not see it.
func (ns *PidNamespace) fromHostByStatus(pid int, thread bool) int {
	if pid <= 0 {
		return 0
	}
	proc, err := openProc(strconv.Itoa(pid))
	if err != nil {
		return 0
	}
	defer unix.Close(proc)
	n, ok := ns.numbersOf(proc)
	switch {
	case !ok:
		return 0
	case thread:
		return n.pids[ns.depth]
	}
	return n.tgids[ns.depth]
}

// numbersOf reads the numbers of a task, and reports that it is in ns or below.
func (ns *PidNamespace) numbersOf(proc int) (pidNumbers, bool) {
	raw, err := readAt(proc, "status")
	if err != nil {
		return pidNumbers{}, false
	}
	n := parsePidNumbers(raw)
	if len(n.pids) <= ns.depth || len(n.tgids) != len(n.pids) {
		return pidNumbers{}, false
	}
	if ns.own {
		// Every task in /proc is in the server's own namespace or below.
		return n, true
	}
	fd, err := unix.Openat(proc, "ns/pid", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return pidNumbers{}, false
	}
	defer unix.Close(fd)
	inode, err := pidnsAncestor(fd, len(n.pids)-1-ns.depth)
	return n, err == nil && inode == ns.inode
}

// numericNames lists the numeric names of a directory of /proc.
func numericNames(dir string) ([]string, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	out := names[:0]
	for _, name := range names {
		if name[0] >= '0' && name[0] <= '9' {
			out = append(out, name)
		}
	}
	return out, nil
}
