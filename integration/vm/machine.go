package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// statusPrefix begins the line by which /init reports the command's status. It must be the last line of the output.
const statusPrefix = "=== vm: exit status "

// machine is a virtual machine, with the host's paths of its parts.
type machine struct {
	qemu            string
	kernel, initrd  string
	console         string   // file that gets the kernel's log
	images          []string // files of file systems, which the guest cannot write
	memoryMiB, cpus int
	clock           string // of the guest: clockHost or clockInstructions
	timeout         time.Duration
	bootTime        time.Duration // bound on the silence at the start
}

// Sources of a guest's clock. With instructions each one lasts two nanoseconds, and an idle processor goes on to the
// next timer at once: a guest's seconds hold as much work as a fast machine's, whatever else the host does meanwhile.
// So the seconds of a guest that works last longer.
const (
	clockHost         = "host"
	clockInstructions = "instructions"
)

// errSilent reports a machine without output: its kernel hung while it booted. With emulated processors that happens,
// seldom.
var errSilent = errors.New("the guest says nothing")

// args returns QEMU's command line. The processors are emulated: KVM is not everywhere, and nested it is not reliable.
// They take turns in one thread. With a thread each, one may run an instruction that another is just patching: a kernel
// dies of an unexpected int3, a JDK of its own compiled code (SIGILL, 1 of 75 starts with QEMU 7.2); and two machines
// need a third more of the host's time. The disk answers reads with zeroes and forgets writes; io.max needs a device to
// name. QEMU emulates "rep stosb" a byte at a time, so that clearing a page takes 4,096 steps: without erms kernel and
// programs use words. With that, and without clearing the pages that the kernel allocates for itself (init_on_alloc), a
// machine needs a fifth less of the host's time. Nor has the processor cmpxchg16b: after the kernel's (mm/slub.c) QEMU 7.2
// seldom leaves the low half of a pointer in the flags, and the next interrupt is a double fault, or a single step.
func (m machine) args() []string {
	args := []string{
		"-machine", "q35", "-accel", "tcg,thread=single", "-cpu", "max,erms=off,cx16=off",
		"-m", strconv.Itoa(m.memoryMiB), "-smp", strconv.Itoa(m.cpus),
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-chardev", "file,id=console,path=" + m.console, "-serial", "chardev:console",
		"-chardev", "stdio,id=output,signal=off", "-serial", "chardev:output",
		"-blockdev", "driver=null-co,node-name=disk,size=67108864,read-zeroes=on",
		"-device", "virtio-blk-pci,drive=disk",
		"-kernel", m.kernel, "-initrd", m.initrd,
		// loglevel=5: a WARNING is printed at level 4, which "quiet" would keep from the console.
		"-append", "console=ttyS0 loglevel=5 panic=-1 oops=panic psi=1 random.trust_cpu=on " +
			"mitigations=off no_timer_check init_on_alloc=0",
	}
	if m.clock == clockInstructions {
		args = append(args, "-icount", "shift=1,sleep=off")
	}
	for i, file := range m.images {
		node := imageName(i)
		args = append(args, "-blockdev", "driver=raw,node-name="+node+",read-only=on,file.driver=file,file.filename="+file,
			"-device", "virtio-blk-pci,drive="+node+",serial="+node)
	}
	return args
}

// imageName returns the serial number by which the guest finds an image's disk.
func imageName(i int) string { return "image" + strconv.Itoa(i) }

// run boots the machine, copies the command's output to out and returns the status that the guest reported. The error
// reports QEMU's failure, the timeout, a silent guest, or output that ends without a status.
func (m machine) run(ctx context.Context, out io.Writer) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, m.timeout)
	defer cancel()
	ctx, end := context.WithCancelCause(ctx)
	silence := time.AfterFunc(m.bootTime, func() { end(errSilent) })
	defer silence.Stop()
	if err := os.WriteFile(m.console, nil, 0o644); err != nil {
		return 0, err
	}
	cmd := exec.CommandContext(ctx, m.qemu, m.args()...)
	cmd.Stderr = os.Stderr
	// A killed test run must not leave a machine behind.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	output, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	last, copyErr := copyLines(out, output, silence)
	waitErr := cmd.Wait()
	if context.Cause(ctx) == errSilent {
		return 0, fmt.Errorf("%w after %v", errSilent, m.bootTime)
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return 0, fmt.Errorf("no end after %v; the last line was %q", m.timeout, last)
	}
	if err := errors.Join(ctx.Err(), copyErr, waitErr); err != nil {
		return 0, err
	}
	return parseStatus(last)
}

// copyLines copies lines, without the carriage returns that a serial port may add, and returns the last line that is
// not empty. The first line stops a timer.
func copyLines(to io.Writer, from io.Reader, silence *time.Timer) (last string, err error) {
	r := bufio.NewReader(from)
	for {
		line, readErr := r.ReadString('\n')
		if text := strings.TrimRight(line, "\r\n"); text != "" || line != "" {
			silence.Stop()
			if text != "" {
				last = text
			}
			if _, err := fmt.Fprintln(to, text); err != nil {
				return last, err
			}
		}
		if readErr == io.EOF {
			return last, nil
		}
		if readErr != nil {
			return last, readErr
		}
	}
}

// parseStatus reads the status line. It ends in " ===", which distinguishes it from a line cut short.
func parseStatus(line string) (int, error) {
	text, ok := strings.CutPrefix(line, statusPrefix)
	text, whole := strings.CutSuffix(text, " ===")
	status, err := strconv.Atoi(text)
	if !ok || !whole || err != nil || status < 0 || status > 255 {
		return 0, fmt.Errorf("the guest ended without a status; its last line was %q", line)
	}
	return status, nil
}
