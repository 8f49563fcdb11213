package integration

import (
	"bufio"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/fs/conn"
	"github.com/vcgroupfs/vcgroupfs/integration/kit"
)

// fill writes to a pipe until it takes no more, by an open file of its own: the daemon's goes on blocking.
func fill(t *testing.T, pipe *os.File) {
	t.Helper()
	fd, err := unix.Open("/proc/self/fd/"+strconv.Itoa(int(pipe.Fd())), unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for line := []byte(strings.Repeat("x", 4095) + "\n"); err == nil; {
		_, err = unix.Write(fd, line)
	}
	if err != unix.EAGAIN {
		t.Fatal(err)
	}
}

// deny has a guest make denied writes until end is called. Before Linux 6.9 one that a worker had in its hands when it was killed is aborted.
func deny(t *testing.T, p *kit.Place) (end func()) {
	return kit.Repeat(func() bool {
		time.Sleep(time.Millisecond)
		err := kit.WithFile(p.At("pids.max"), unix.O_WRONLY, kit.WriteFD("max"))
		if aborted := errors.Is(err, unix.ECONNABORTED) && !conn.CanResend(); !errors.Is(err, unix.EPERM) && !aborted {
			t.Errorf("a write of the boundary's limit: %v", err)
			return false
		}
		return true
	})
}

// replacements kills workers and says how long each was missed, sorted.
func replacements(t *testing.T, d *kit.Daemon, times int) (took []time.Duration) {
	t.Helper()
	for range times {
		before := d.Ready(t)
		began := time.Now()
		d.Signal(t, unix.SIGKILL, 0)
		kit.Eventually(t, "another worker", func() bool {
			now, err := d.Info()
			return err == nil && now.Pid != before.Pid
		})
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	return took
}

// TestLogWithoutReader: whoever reads the daemon's standard error goes, or does not read. Holder and worker live, worker after worker is
// replaced as fast as ever, and the daemon ends as it should. What is lost is counted.
func TestLogWithoutReader(t *testing.T) {
	for _, c := range []struct {
		name string
		gone bool
	}{{"gone", true}, {"does not read", false}} {
		t.Run(c.name, func(t *testing.T) {
			reader, writer := kit.PipeTo(t)
			d := kit.StartDaemonSaying(t, writer, kit.Program(t), nil)
			p := kit.NewPlace(t, d, "log")
			d.WantTry(t, 0, "", p.Add("web")...)
			quiet := replacements(t, d, 10)
			in := bufio.NewReader(reader)
			holder := d.Ready(t).Holder
			if c.gone {
				reader.Close()
			} else {
				fill(t, writer)
			}
			end := deny(t, p)
			defer end()
			loud := replacements(t, d, 20)
			t.Logf("a worker is replaced in %v, %v at most; quietly in %v, %v at most",
				loud[len(loud)/2], loud[len(loud)-1], quiet[len(quiet)/2], quiet[len(quiet)-1])
			if loud[len(loud)/2] > 5*quiet[len(quiet)/2]+time.Second/4 {
				t.Errorf("a worker is replaced in %v, quietly in %v", loud, quiet)
			}
			if now := d.Ready(t).Holder; now != holder {
				t.Errorf("the holder is %d, was %d", now, holder)
			}
			if !c.gone {
				wantLost(t, in)
				fill(t, writer)
			}
			end()
			d.Stop(t)
		})
	}
}

// wantLost reads a log until it has the line of a denial, after all that filled the pipe.
func wantLost(t *testing.T, in *bufio.Reader) {
	t.Helper()
	found := make(chan error, 1)
	go func() {
		for {
			line, err := in.ReadString('\n')
			if err != nil || strings.Contains(line, "denied") {
				found <- err
				return
			}
		}
	}()
	select {
	case err := <-found:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(kit.Patience):
		t.Error("nothing of what the worker logged arrives when the log is read again")
	}
}

// TestGiveUpUnread: the holder gives up in time, also when nobody reads its log.
func TestGiveUpUnread(t *testing.T) {
	_, writer := kit.PipeTo(t)
	d := kit.StartDaemonSaying(t, writer, kit.Program(t), []string{"--give-up", "2s"})
	p := kit.NewPlace(t, d, "log")
	d.WantTry(t, 0, "", p.Add("web")...)
	fill(t, writer)
	d.StopAllWorkers(t)
	if d.Cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("the daemon ended with %v, want status 1", d.Err)
	}
}

// TestManagerDeaf: a service manager that does not read keeps nobody waiting. When it reads again it is told all of it, in order.
func TestManagerDeaf(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	filler, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer filler.Close()
	for err == nil {
		filler.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
		_, err = filler.Write([]byte("full"))
	}
	d := kit.StartDaemonWith(t, kit.Program(t), nil, "NOTIFY_SOCKET="+path, "WATCHDOG_USEC=600000")
	p := kit.NewPlace(t, d, "deaf")
	d.WantTry(t, 0, "", p.Add("web")...)
	took := replacements(t, d, 10)
	t.Logf("a worker is replaced in %v, %v at most", took[len(took)/2], took[len(took)-1])
	var states []string
	buf, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4*8))
	c.SetReadDeadline(time.Now().Add(kit.Patience))
	const device0 = "FDSTORE=1\nFDPOLL=0\nFDNAME=device-0"
	// A sign of life may come before the guest if the kernel's queue is longer than the filler's buffer.
	for !slices.Contains(states, "WATCHDOG=1") || !slices.Contains(states, device0) {
		n, oobn, _, _, err := c.ReadMsgUnix(buf, oob)
		if err != nil {
			t.Fatalf("%v; told: %q", err, states)
		}
		closeRights(oob[:oobn])
		if s := string(buf[:n]); s != "full" {
			states = append(states, s)
		}
	}
	arena, ready := slices.Index(states, "FDSTORE=1\nFDPOLL=0\nFDNAME=arena"), slices.Index(states, "READY=1\nSTATUS=serving")
	device := slices.Index(states, device0)
	if arena != 0 || ready < arena || device < ready {
		t.Errorf("the manager was told %q", states)
	}
}

// closeRights closes descriptors that came by a socket.
func closeRights(oob []byte) {
	messages, _ := unix.ParseSocketControlMessage(oob)
	for _, m := range messages {
		fds, _ := unix.ParseUnixRights(&m)
		for _, fd := range fds {
			unix.Close(fd)
		}
	}
}

// TestMountUnread: a mount that has something to log, and nobody who reads it, takes its view away when it ends.
func TestMountUnread(t *testing.T) {
	h := kit.OpenHost(t)
	pids := kit.NeedHierarchy(t, h, "pids")
	path := kit.NewBoundary(t, "unread", pids)
	for _, gone := range []bool{true, false} {
		reader, writer := kit.PipeTo(t)
		dir := kit.PublicDir(t)
		cmd := exec.Command(kit.Program(t), "--log-level", "debug", "mount", "--boundary", path, "--controllers", "pids", dir)
		cmd.Stderr = writer
		if gone {
			reader.Close()
		} else {
			fill(t, writer)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		kit.Eventually(t, "the view", func() bool { return kit.IsMounted(dir) && cmd.Process.Signal(unix.SIGTERM) == nil })
		select {
		case err := <-ended:
			if err != nil || kit.IsMounted(dir) {
				t.Errorf("reader gone %t: it ended with %v, mounted %t", gone, err, kit.IsMounted(dir))
			}
		case <-time.After(kit.Patience):
			cmd.Process.Kill()
			t.Fatalf("reader gone %t: it does not end", gone)
		}
	}
}
