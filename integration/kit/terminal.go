package kit

import (
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// Terminal is one on which a program runs that wants one, and what was written to it.
type Terminal struct {
	Master *os.File
	Slave  *os.File
	mu     sync.Mutex
	out    strings.Builder
}

// StartOnTerminal starts a command on a terminal of its own.
func StartOnTerminal(t *testing.T, cmd *exec.Cmd) *Terminal {
	t.Helper()
	c := OpenTerminal(t)
	RunOnTerminal(t, c, cmd)
	return c
}

// RunOnTerminal starts a command on a terminal.
func RunOnTerminal(t *testing.T, c *Terminal, cmd *exec.Cmd) {
	t.Helper()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = c.Slave, c.Slave, c.Slave
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go io.Copy(c, c.Master)
}

// OpenTerminal makes a terminal for as long as the test runs.
func OpenTerminal(t *testing.T) *Terminal {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	fd := int(master.Fd())
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 50, Col: 160})
	}
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slave.Close() })
	return &Terminal{Master: master, Slave: slave}
}

// Write is what the program does.
func (c *Terminal) Write(text []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.out.Write(text)
}

// Text is what was written so far.
func (c *Terminal) Text() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.out.String()
}
