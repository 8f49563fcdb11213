package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/sirupsen/logrus"
	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/fault"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/spec"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/target"
	"github.com/vcgroupfs/vcgroupfs/cmd/internal/views"
)

func mountCommand() *cli.Command {
	return &cli.Command{
		Name:      "mount",
		Usage:     "serve one view at a directory",
		ArgsUsage: "MOUNTPOINT",
		Description: "Mounts a view at a directory, as a rule /sys/fs/cgroup below the root of a guest that something else " +
			"starts, and serves it in\n" +
			"the foreground. It says on standard output when the view is there. SIGTERM, SIGINT and umount end it, with " +
			"status 0.\n\n" +
			"With --rootfs the directory is counted from the guest's root, and the guest's symbolic links are followed inside " +
			"that root. Without\n" +
			"it no part of the path may be a symbolic link: below a guest's root it would be the guest that says where to " +
			"mount.\n\n" +
			"The boundary must exist in each hierarchy that holds a permitted controller, and in no other. With --pid it is\n" +
			"where the cgroup namespace of a process begins, whatever cgroup below that the process is in now.\n\n" +
			"   vcgroupfs mount --boundary /machines/web --controllers memory,pids --rootfs /srv/web/rootfs /sys/fs/cgroup\n\n" +
			"Linked as /sbin/mount.vcgroupfs it serves fstab, and then goes into the background:\n\n" +
			"   /machines/web  /srv/web/rootfs/sys/fs/cgroup  vcgroupfs  rootfs=/srv/web/rootfs,controllers=memory+pids  0 0",
		Flags: append(policyFlags(),
			&cli.StringFlag{Name: "boundary", Usage: "`PATH` of the boundary, counted from the root of each hierarchy"},
			pidFlag(), currentFlag(),
			&cli.StringFlag{Name: "rootfs", Usage: "count the directory from `DIR`, the guest's root on the host"},
			overFlag(),
			&cli.StringFlag{Name: "source", Value: "vcgroupfs", Hidden: true},
			&cli.StringFlag{Name: "owner",
				Usage: "`UID:GID` of the host that are root in the guest (default: 0:0; with --pid its user namespace's root)"},
			noBPFFlag(), transportFlag(),
			&cli.StringSliceFlag{Name: "o", Usage: "the flags above as `OPTIONS`: boundary=PATH,controllers=A+B,..."},
			readyFlag("when the view is mounted"),
			&cli.BoolFlag{Name: "background", Hidden: true},
		),
		Action: mount,
	}
}

func mount(c *cli.Context) error {
	if err := applyOptions(c); err != nil {
		return err
	}
	if c.NArg() != 1 {
		return usageErrorf("give one directory to mount at; as in: vcgroupfs mount --boundary /machines/web --rootfs " +
			"/srv/web/rootfs /sys/fs/cgroup")
	}
	if err := checkPlace(c); err != nil {
		return err
	}
	at, err := mountTarget(c)
	if err != nil {
		return err
	}
	log := logrus.NewEntry(logrus.StandardLogger())
	cfg := views.MountConfig{
		Boundary: views.Place{Path: c.String("boundary"), Pid: c.Int("pid"), Current: c.Bool("current-cgroup")},
		Target:   at, Over: c.Bool("over"), Source: c.String("source"), Log: log,
	}
	if o := c.String("owner"); o != "" {
		owner, err := spec.ParseOwner(o)
		if err != nil {
			return fault.With(fault.Invalid, err)
		}
		cfg.Owner = &owner
	}
	if cfg.Layout, err = layoutFlag(c); err != nil {
		return err
	}
	if cfg.Policy, err = policyFlag(c); err != nil {
		return err
	}
	if cfg.Transport, err = transportOf(c); err != nil {
		return err
	}
	if err := checkRoot("mount a view"); err != nil {
		return err
	}
	if err := checkTransport(cfg.Transport); err != nil {
		return err
	}
	neverWait(c)
	ready, err := readyTeller(c, "the view is mounted at "+at.String())
	if err != nil {
		return err
	}
	cfg.Ready = func() {
		ready()
		if c.Bool("background") {
			letGo()
		}
	}
	if !c.Bool("no-bpf") {
		types := newTyper(log)
		defer types.close()
		cfg.Types = types
	}
	return views.Mount(cfg)
}

// mountTarget returns the target of the arguments.
func mountTarget(c *cli.Context) (at target.Target, err error) {
	dir := c.Args().First()
	switch {
	case dir == "":
		return at, usageErrorf("give one directory to mount at, not an empty word")
	case c.String("rootfs") == "":
		at.Path, err = hostPath(dir)
	case !filepath.IsAbs(dir):
		err = usageErrorf("%q: with --rootfs give the directory's absolute path in the guest, such as /sys/fs/cgroup", dir)
	default:
		at.Path = filepath.Clean(dir)
		at.Rootfs, err = hostPath(c.String("rootfs"))
	}
	return at, err
}

func overFlag() cli.Flag {
	return &cli.BoolFlag{Name: "over", Usage: "mount also over what is mounted at the directory, or is in it"}
}

func pidFlag() cli.Flag {
	return &cli.IntFlag{Name: "pid", Usage: "take the root of the cgroup namespace of process `PID` for the boundary"}
}

func currentFlag() cli.Flag {
	return &cli.BoolFlag{Name: "current-cgroup", Usage: "with --pid: take the cgroups that the process is in now"}
}

// checkPlace checks the flags that locate the boundary.
func checkPlace(c *cli.Context) error {
	switch {
	case c.IsSet("pid") && c.Int("pid") <= 0:
		return usageErrorf("--pid %d is no process: give the number of one, 1 or more", c.Int("pid"))
	case (c.String("boundary") == "") == (c.Int("pid") == 0):
		return usageErrorf("give the boundary: either --boundary PATH or --pid PID")
	case c.Bool("current-cgroup") && c.Int("pid") == 0:
		return usageErrorf("--current-cgroup says which cgroup of a process to take: give --pid PID beside it")
	}
	return nil
}

// applyOptions sets flags from -o. It ignores the generic mount options that mean nothing here.
func applyOptions(c *cli.Context) error {
	for _, o := range c.StringSlice("o") {
		key, value, given := strings.Cut(o, "=")
		switch key {
		case "current-cgroup", "no-bpf", "over":
			if err := c.Set(key, "true"); err != nil || given {
				return usageErrorf("option %q takes no value", key)
			}
		case "boundary", "pid", "controllers", "policy", "layout", "owner", "rootfs", "transport":
			if !given || value == "" {
				return usageErrorf("option %q needs a value: %s=VALUE", key, key)
			}
			if err := c.Set(key, value); err != nil {
				return usageErrorf("option %q: %v", o, err)
			}
		case "", "rw", "defaults", "auto", "noauto", "nofail", "_netdev", "nosuid", "nodev", "noexec",
			"relatime", "user", "nouser":
		default:
			if !strings.HasPrefix(key, "x-") && !strings.HasPrefix(key, "comment") {
				return usageErrorf("unknown option %q; allowed: boundary, pid, current-cgroup, rootfs, over, controllers (names "+
					"joined by +), policy, layout, owner, no-bpf, transport", o)
			}
		}
	}
	return nil
}

// mountHelper is the name under which mount(8) calls this program.
const mountHelper = "mount.vcgroupfs"

// helperArgs makes a command line of mount(8)'s arguments: SOURCE DIRECTORY [-sfnv] [-o OPTIONS] [-t TYPE]. The source
// is the boundary's path, unless the options give one. The mount table shows the source, too, by which mount -a finds
// the mounts that exist already.
func helperArgs(args []string) []string {
	var plain, options []string
	for i := 1; i < len(args); i++ {
		switch {
		case (args[i] == "-o" || args[i] == "-t" || args[i] == "-N") && i+1 < len(args):
			if args[i] == "-o" {
				options = append(options, args[i+1])
			}
			i++
		case strings.HasPrefix(args[i], "-"):
		default:
			plain = append(plain, args[i])
		}
	}
	joined, source := strings.Join(options, ","), "vcgroupfs"
	if len(plain) == 2 {
		if source = plain[0]; strings.HasPrefix(source, "/") && !strings.Contains(","+joined, ",boundary=") &&
			!strings.Contains(","+joined, ",pid=") {
			joined = strings.TrimPrefix(joined+",boundary="+source, ",")
		}
		plain = plain[1:]
	}
	if len(plain) == 1 {
		dir, err := inRoot(plain[0], joined)
		if err != nil {
			fmt.Fprintln(os.Stderr, "mount.vcgroupfs:", err)
			os.Exit(fault.ExitUsage)
		}
		plain[0] = dir
		os.Exit(background(append([]string{"mount", "-o", joined, "--source", source}, plain[0])))
	}
	return append([]string{"vcgroupfs", "mount", "-o", joined}, plain...)
}

// inRoot makes a directory of the host relative to the option rootfs, if that is given. mount(8) has followed the links
// of fstab's path, the guest's included. The error reports links that lead out of the root.
func inRoot(dir, options string) (string, error) {
	for option := range strings.SplitSeq(options, ",") {
		root, is := strings.CutPrefix(option, "rootfs=")
		if !is {
			continue
		}
		real, err := filepath.EvalSymlinks(root)
		if err != nil {
			return "", fmt.Errorf("cannot use the option rootfs: %w", err)
		}
		for _, r := range []string{filepath.Clean(root), real} {
			if inside, below := strings.CutPrefix(filepath.Clean(dir), strings.TrimSuffix(r, "/")+"/"); below {
				return "/" + inside, nil
			}
		}
		return "", fmt.Errorf("cannot mount at %s: it is not below rootfs=%s, or symbolic links there lead out of it", dir,
			root)
	}
	return dir, nil
}

// letGo closes input, output and errors, since the caller may wait for their end.
func letGo() {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return
	}
	defer null.Close()
	for fd := range 3 {
		unix.Dup3(int(null.Fd()), fd, 0)
	}
}

// background starts the server in a session of its own and waits until the view is mounted, as mount(8) waits for its
// helper.
func background(args []string) int {
	r, w, err := os.Pipe()
	if err != nil {
		fmt.Fprintln(os.Stderr, "mount.vcgroupfs:", err)
		return fault.ExitFailure
	}
	cmd := exec.Command("/proc/self/exe", append(args[:1:1],
		append([]string{"--background", "--ready-fd", strconv.Itoa(3)}, args[1:]...)...)...)
	cmd.Args[0] = "vcgroupfs"
	cmd.Stderr = os.Stderr
	cmd.ExtraFiles = []*os.File{w}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "mount.vcgroupfs:", err)
		return fault.ExitFailure
	}
	w.Close()
	if said, _ := io.ReadAll(r); string(said) == readyWord {
		return fault.ExitOK
	}
	cmd.Wait()
	return max(cmd.ProcessState.ExitCode(), fault.ExitFailure)
}
