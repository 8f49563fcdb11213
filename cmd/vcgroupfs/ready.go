package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/logs"
)

// readyWord is the message on a ready descriptor. Its end without the message means that the program has failed.
const readyWord = "ready\n"

func readyFlag(when string) cli.Flag {
	return &cli.UintFlag{Name: "ready-fd", Usage: "write the line \"ready\" to the descriptor `N` " + when +
		", and close it", DefaultText: "none"}
}

// readyTeller returns a function that announces that a command serves: by a line on standard output, unless the log is
// for errors alone, and on the descriptor of --ready-fd. The error is of readyFDTeller.
func readyTeller(c *cli.Context, what string) (func(), error) {
	out := c.App.Writer
	if out == io.Writer(os.Stdout) {
		// A writer that does not wait for the reader.
		out = logs.New(unix.Stdout, func(uint64) []byte { return nil })
	}
	tell, err := readyFDTeller(c)
	if err != nil {
		return nil, err
	}
	return func() {
		if logrus.IsLevelEnabled(logrus.WarnLevel) {
			announce(out, what)
		}
		tell()
	}, nil
}

// readyFDTeller returns a function that writes readyWord to the descriptor of --ready-fd, if one was given, and closes
// it. No child inherits the descriptor. The error reports a descriptor that is not open, or is a standard one.
func readyFDTeller(c *cli.Context) (func(), error) {
	if !c.IsSet("ready-fd") {
		return func() {}, nil
	}
	fd := c.Uint("ready-fd")
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || int(fd) <= unix.Stderr {
		return nil, usageErrorf("--ready-fd %d: give a descriptor above 2 that is open, as in: --ready-fd 3 3>FIFO", fd)
	}
	unix.CloseOnExec(int(fd))
	return func() {
		// In a goroutine, because a pipe may be full and its reader slow.
		go func() {
			f := os.NewFile(uintptr(fd), "ready-fd")
			f.WriteString(readyWord)
			f.Close()
		}()
	}, nil
}

// announce writes a line at level info, whatever the log level: JSON if the log is JSON.
func announce(out io.Writer, what string) {
	format, json := logrus.StandardLogger().Formatter.(*logrus.JSONFormatter)
	if !json {
		fmt.Fprintf(out, "vcgroupfs: %s\n", what)
		return
	}
	e := logrus.NewEntry(logrus.StandardLogger()).WithTime(time.Now())
	e.Level, e.Message = logrus.InfoLevel, what
	if line, err := format.Format(e); err == nil {
		out.Write(line)
	}
}
