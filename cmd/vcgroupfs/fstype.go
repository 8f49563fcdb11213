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
	return &cli.BoolFlag{Name: "no-bpf", Usage: "load no BPF programs: statfs of a view then says FUSE, but where run or notify-exec answers it"}
}

// typer has statfs answered for a view of this process: by the daemon that serves on this host, or else by programs of
// its own, which are loaded while other things are set up. It is a guest.Typer.
type typer struct {
	log    *logrus.Entry
	socket string
	loaded chan struct{} // closed when loading has ended; own and err are settled then
	load   sync.Once
	own    *fstype.Programs
	err    error
}

// askWait is how long the daemon may take. One that is replaced takes some milliseconds.
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

// served says whether a daemon listens.
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

// Show has statfs answered for a view, and says whether it is.
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

// ask asks the daemon. One that cannot, or does not know of it, is no reason to do without.
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

// close takes the programs away. Before they are loaded there is nothing to wait for: they end with this process.
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

// endElsewhere takes programs away. The kernel waits for a tenth of a second and more for each function that nobody
// follows any longer, in whoever closes the last descriptor: that is a process for which nobody waits.
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
	_ = cmd.Start() // or else this process waits
	p.Close()
}
