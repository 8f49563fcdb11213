package holder

import (
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// manager is the service manager that started us, as systemd has it (sd_notify(3), systemd.io/FILE_DESCRIPTOR_STORE): it is
// told of our state, and keeps descriptors over our own death. The zero value is none.
type manager struct {
	address *unix.SockaddrUnix
	every   time.Duration // between two signs of life, 0 for none wanted
	last    *time.Time
	log     *logrus.Entry
}

// firstFD is where descriptors that a service manager gives begin (SD_LISTEN_FDS_START).
const firstFD = 3

func findManager(log *logrus.Entry) manager {
	m := manager{log: log, last: &time.Time{}}
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return m
	}
	m.address = &unix.SockaddrUnix{Name: path}
	if usec, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64); err == nil && usec > 0 {
		m.every = time.Duration(usec) * time.Microsecond / 3
	}
	os.Unsetenv("NOTIFY_SOCKET") // not the worker's to use
	os.Unsetenv("WATCHDOG_USEC")
	return m
}

// tell sends a state, with a descriptor where fd is not negative. A manager that does not listen is none of our trouble.
func (m manager) tell(state string, fd int) {
	if m.address == nil {
		return
	}
	var rights []byte
	if fd >= 0 {
		rights = unix.UnixRights(fd)
	}
	s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Sendmsg(s, []byte(state), rights, m.address, unix.MSG_NOSIGNAL)
		unix.Close(s)
	}
	if err != nil {
		m.log.WithError(err).Warn("cannot tell the service manager")
	}
}

func (m manager) ready() { m.tell("READY=1\nSTATUS=serving", -1) }

func (m manager) reloading() { m.tell("STATUS=upgrading", -1) }

func (m manager) stopping() { m.tell("STOPPING=1", -1) }

// alive says that we live, as often as the manager wants.
func (m manager) alive() {
	if m.every > 0 && time.Since(*m.last) >= m.every {
		*m.last = time.Now()
		m.tell("WATCHDOG=1", -1)
	}
}

func (m manager) store(name string, file *os.File) { m.storeFD(name, int(file.Fd())) }

// storeFD has the manager keep a descriptor. FDPOLL=0: a poll of /dev/fuse would wake it for each request.
func (m manager) storeFD(name string, fd int) { m.tell("FDSTORE=1\nFDPOLL=0\nFDNAME="+name, fd) }

func (m manager) unstore(name string) { m.tell("FDSTOREREMOVE=1\nFDNAME="+name, -1) }

// kept are the descriptors that the manager gives back, by name (sd_listen_fds_with_names(3)).
func (m manager) kept() map[string]int {
	defer os.Unsetenv("LISTEN_PID")
	defer os.Unsetenv("LISTEN_FDS")
	defer os.Unsetenv("LISTEN_FDNAMES")
	if pid, err := strconv.Atoi(os.Getenv("LISTEN_PID")); err != nil || pid != os.Getpid() {
		return nil
	}
	n, err := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	if err != nil {
		return nil
	}
	names := strings.Split(os.Getenv("LISTEN_FDNAMES"), ":")
	all := map[string]int{}
	for i := range n {
		fd := firstFD + i
		unix.CloseOnExec(fd)
		if i < len(names) {
			all[names[i]] = fd
		} else {
			unix.Close(fd)
		}
	}
	return all
}
