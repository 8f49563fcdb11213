// Command vm boots a Linux kernel in QEMU, without KVM, to an initramfs with busybox and the given files, runs one
// command there as root, and exits with the command's status.
//
//	vm -kernel DIR -file bin/x=/bin/x -- /bin/x ARG...
//
// Words: the host runs QEMU; the guest is the booted system; the console is the guest's kernel log (first serial port);
// the output is the command's (second serial port), so that neither cuts into the other's lines.
//
// Whatever the command's status, a run fails when the guest's last line is not a status, when the time is up, when the
// kernel reports a fault on its console (a warning, an oops, a hung task), or when the command leaves cgroups, FUSE
// mounts or processes behind: the machine runs nothing else, so all of them are the command's.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Exit codes of the program, beside those of the guest's command.
const (
	exitUsage  = 2   // the command line is wrong
	exitFailed = 125 // no status came back, or the guest's kernel complained
)

// list is a flag that may be given several times.
type list []string

func (l *list) String() string     { return strings.Join(*l, " ") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

func main() {
	var m machine
	var files, env, images list
	kernel := flag.String("kernel", "", "directory of an unpacked kernel package (boot/vmlinuz-*, lib/modules/*)")
	modules := flag.String("modules", "fuse,virtio_pci,virtio_blk,loop,overlay",
		"modules to load, with what they depend on; those built in are skipped")
	busybox := flag.String("busybox", "busybox", "a static busybox")
	flag.StringVar(&m.qemu, "qemu", "qemu-system-x86_64", "the emulator")
	flag.IntVar(&m.memoryMiB, "memory", 1024, "the guest's memory in MiB")
	flag.IntVar(&m.cpus, "smp", 2, "the guest's processors")
	flag.StringVar(&m.clock, "clock", clockHost,
		"what the guest's clock follows: the "+clockHost+"'s, or the "+clockInstructions+" of its processors")
	flag.DurationVar(&m.timeout, "timeout", 10*time.Minute, "how long the guest may take")
	flag.DurationVar(&m.bootTime, "boot-time", 2*time.Minute,
		"how long it may take until the guest says something; then it is started again")
	flag.StringVar(&m.console, "console", "", "file to keep the kernel's console in (default: kept only while it runs)")
	flag.Var(&files, "file", "HOST=GUEST, a file or a directory to put into the guest (may be repeated)")
	flag.Var(&images, "image",
		"HOST=GUEST, a file with a file system of the kernel's own (ext4), mounted read-only (may be repeated)")
	flag.Var(&env, "env", "NAME=VALUE for the command (may be repeated)")
	legacy := flag.String("v1", "", "controllers for v1 hierarchies of their own, as in \"memory,pids\"; v2 has the others (none: v2 has all)")
	dir := flag.String("dir", "/", "directory in the guest that the command starts in, made when it is not there")
	flag.Parse()
	if *kernel == "" || flag.NArg() == 0 || m.clock != clockHost && m.clock != clockInstructions {
		fmt.Fprintln(os.Stderr, "usage: vm -kernel DIR [OPTION...] -- COMMAND [ARG...]")
		os.Exit(exitUsage)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	guest := guest{kernel: *kernel, busybox: *busybox, modules: strings.Split(*modules, ","), files: files, images: images,
		legacy: *legacy, env: env, dir: *dir, argv: flag.Args()}
	status, err := run(ctx, m, guest)
	if err != nil {
		fmt.Fprintln(os.Stderr, "vm:", err)
		os.Exit(exitFailed)
	}
	os.Exit(status)
}

// emulatorFault is the report of a kernel that set a breakpoint while it patched its code, and removed it, when an
// emulated processor runs into the breakpoint late (QEMU without KVM). The report is unrelated to the code under test.
var emulatorFault = []byte("Oops: int3: ")

// maxTries bounds the starts of a machine with that fault, or that hangs at its start.
const maxTries = 3

// run builds the guest's initramfs, boots it and returns the status of its command. The error reports the failed step,
// or the kernel's complaints.
func run(ctx context.Context, m machine, g guest) (int, error) {
	work, err := os.MkdirTemp("", "vm-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(work)
	images, err := filepath.Glob(filepath.Join(g.kernel, "boot/vmlinuz-*"))
	if err != nil {
		return 0, err
	}
	if len(images) != 1 {
		return 0, fmt.Errorf("%s has %d kernels in boot/, not one", g.kernel, len(images))
	}
	m.kernel = images[0]
	m.initrd = filepath.Join(work, "initramfs")
	for _, pair := range g.images {
		file, _, _ := strings.Cut(pair, "=")
		m.images = append(m.images, file)
	}
	if m.console == "" {
		m.console = filepath.Join(work, "console")
	}
	if err := g.writeInitramfs(m.initrd); err != nil {
		return 0, fmt.Errorf("cannot make the initramfs: %w", err)
	}
	var status int
	var runErr error
	var console []byte
	for tries := 0; tries < maxTries; tries++ {
		status, runErr = m.run(ctx, os.Stdout)
		if console, err = os.ReadFile(m.console); err != nil {
			return 0, errors.Join(runErr, err)
		}
		why := "its kernel hung at its start"
		if bytes.Contains(console, emulatorFault) {
			why = "the emulator ran an instruction of the kernel that was being patched (int3)"
		} else if !errors.Is(runErr, errSilent) {
			break
		}
		fmt.Printf("vm: %s; once more, from the start\n", why)
	}
	if bad := complaints(string(console)); len(bad) > 0 {
		runErr = errors.Join(runErr, fmt.Errorf("the guest's kernel complained: %s", strings.Join(bad, "; ")))
	}
	if runErr != nil {
		fmt.Fprintf(os.Stderr, "--- console of the guest\n%s--- end of the console\n", console)
	}
	return status, runErr
}
