package main

import (
	"context"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/api"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fstype"
)

func noBPFFlag() cli.Flag {
	return &cli.BoolFlag{Name: "no-bpf",
		Usage: "load no BPF programs: statfs of a view then says FUSE, but where run or notify-exec answers it"}
}

// typer has statfs answered for a view of this process: by the daemon on this host, or else by programs of its own,
// which are loaded while the view is set up. It is a views.Typer.
type typer struct {
	log    *logrus.Entry
	socket string
	loaded chan struct{} // closed when loading has ended; own and err are immutable then
	load   sync.Once
	own    *fstype.Programs
	err    error
}

// askWait bounds the daemon's answer. A restarting daemon takes some milliseconds.
const askWait = 2 * time.Second

func newTyper(log *logrus.Entry) *typer {
	t := &typer{log: log, socket: api.DefaultSocket, loaded: make(chan struct{})}
	if path := os.Getenv("VCGROUPFS_SOCKET"); path != "" {
		t.socket = path
	}
	if !t.served() {
		go t.begin()
	}
	return t
}

// served reports that a daemon listens.
func (t *typer) served() bool {
	c, err := net.DialTimeout("unix", t.socket, askWait)
	if err == nil {
		c.Close()
	}
	return err == nil
}

// begin loads programs of this process's own.
func (t *typer) begin() {
	t.load.Do(func() {
		t.own, t.err = fstype.Load()
		close(t.loaded)
	})
}

// Show has statfs answered for a view, and reports success.
func (t *typer) Show(view int, about fstype.View) bool {
	if t.served() && t.ask(view, about) == nil {
		return true
	}
	t.begin()
	<-t.loaded
	err := t.err
	if err == nil {
		err = t.own.Show(view, about)
	}
	if err != nil {
		t.log.Infof("no BPF program has statfs of the view say more than FUSE: %v", err)
	}
	return err == nil
}

// ask asks the daemon. If the daemon cannot answer, or is too old for the request, the own programs do.
func (t *typer) ask(view int, about fstype.View) error {
	ctx, cancel := context.WithTimeout(context.Background(), askWait)
	defer cancel()
	client := api.NewClient(t.socket)
	defer client.Close()
	err := client.ShowType(ctx, api.TypeRequest{FD: view, Types: about.Types, Cgroup: about.Cgroup})
	if err != nil {
		t.log.WithError(err).Debug("the daemon does not answer for the view")
	}
	return err
}

// close unloads the programs. It does not wait for programs that are still loading: they end with this process.
func (t *typer) close() {
	select {
	case <-t.loaded:
		if t.own != nil {
			endElsewhere(t.own)
		}
	default:
	}
}

// endTypeCommand is the argument of a process that ends at once. It is not for users.
const endTypeCommand = "end-type"

// endElsewhere unloads programs in another process, for which nothing waits. The kernel waits for a tenth of a second
// and more for each function that loses its last program, in the process that closes the last descriptor.
func endElsewhere(p *fstype.Programs) {
	cmd := exec.Command("/proc/self/exe", endTypeCommand)
	cmd.Args[0] = "vcgroupfs"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	for _, fd := range p.Kept() {
		if fd, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3); err == nil {
			f := os.NewFile(uintptr(fd), "program")
			defer f.Close()
			cmd.ExtraFiles = append(cmd.ExtraFiles, f)
		}
	}
	// If it fails, this process waits.
	_ = cmd.Start()
	p.Close()
}
