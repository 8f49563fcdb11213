package main

import (
	"github.com/sirupsen/logrus"
	"github.com/urfave/cli/v2"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/run"
)

func notifyExecCommand() *cli.Command {
	return &cli.Command{
		Name:      "notify-exec",
		Usage:     "become a command that finds cgroup's own file-system type in a view (inside a guest)",
		ArgsUsage: "-- COMMAND [ARGUMENT...]",
		Description: "For guests that have a view and whose manager has no way to answer for it: bubblewrap, " +
			"systemd-nspawn, the entrypoint of\n" +
			"a container. Bind this program in and put it before the command:\n\n" +
			"   bwrap ... --bind VIEW /sys/fs/cgroup --ro-bind /usr/bin/vcgroupfs /vcgroupfs -- /vcgroupfs notify-exec -- " +
			"COMMAND\n" +
			"   systemd-nspawn ... --bind-ro=/usr/bin/vcgroupfs:/vcgroupfs /vcgroupfs notify-exec -- /lib/systemd/systemd\n\n" +
			"A seccomp filter sends three calls of COMMAND and all that comes of it to a process beside it, which answers for " +
			"the\n" +
			"guest's views: statfs says the type of the kernel's own mount; mount -t cgroup and cgroup2 attach the guest's " +
			"view, if this\n" +
			"process has CAP_SYS_ADMIN (and the one that mounts has it too); fsopen is not there for these types, so that " +
			"programs use\n" +
			"mount. clone3 is not there, so that programs use clone: a view's directories are none to start in. All other " +
			"calls are\n" +
			"the kernel's alone.\n\n" +
			"COMMAND keeps this process's number, parent, descriptors and signals: as the first process it is 1. What answers " +
			"is no child\n" +
			"of it, unless it is the first process, stays in the cgroup that this was started in, is called @vcgroupfs and " +
			"ends with the\n" +
			"last process under the filter. It has this guest's rights and no others: what it answers can deceive nobody " +
			"outside, and a\n" +
			"guest that mounts a file system of its own under the name of a view lies to itself. Whoever kills it has statfs " +
			"and mount\n" +
			"fail with ENOSYS, until the guest ends.\n\n" +
			"Without CAP_SYS_ADMIN the filter needs no_new_privs: programs gain no rights by set-user-id then. And where the " +
			"kernel lets\n" +
			"only ancestors look at a process (kernel.yama.ptrace_scope 1 or more), it answers for nobody unless it has " +
			"CAP_SYS_PTRACE.\n" +
			"Under \"vcgroupfs run\", and where a runtime's profile has a listener, there is no need for it, and it does " +
			"nothing but\n" +
			"execute COMMAND.",
		Action: notifyExec,
	}
}

func notifyExec(c *cli.Context) error {
	if c.NArg() == 0 {
		return runError(usageErrorf("no command to execute; as in: vcgroupfs notify-exec -- /lib/systemd/systemd"))
	}
	return runError(run.NotifyExec(c.Args().Slice(), logrus.NewEntry(logrus.StandardLogger())))
}
