#!/bin/sh
# Runs bin/integration.test, which must be built, on this kernel ("here") or in virtual machines with Debian cloud kernels
# of the series named.
#
#	.ci/integration.sh here|6.12|6.1|6.12-clients|6.12-type|6.1-type|6.1-v1|5.10-v1... [-- TEST BINARY'S OPTION...]
#
# A machine called SERIES-clients runs TestClients and TestClientsCpuset alone: it has the programs that look for their limits, and more
# processors than those allow them. One called SERIES-type runs TestUnmodified... alone: it has the root file systems of .ci/tree.sh. One called
# SERIES-v1 has v1 hierarchies, and runs what asks those of a kernel that old. As many machines run at a time as there are processors, whoever
# started them, and what they print is shown one after the other; "here" comes first, so that nothing of this run is beside it.
set -eu
cd "$(dirname "$0")/.."
. .ci/lib.sh

# In a virtual machine the processors are emulated, all on one of the host's: the same tests take several times longer there. With Linux 6.12
# its clock counts their instructions, so that what a second holds is the same whatever else the host does; 6.1 hangs at its start with that.
here_limit=50m
vm_limit=54m
# How much of the load and of the kills is done there, and at which part of the pace.
vm_scale=0.1
# Tests of the program alone: neither the kernel's version nor the version of its cgroups changes an answer. They run here, in
# no machine. Command lines, exit codes, the log and its readers:
only_here="TestSameFaultSameCode TestServeRefuses TestReady TestLogOptions TestLogWithoutReader TestMountUnread"
only_here="$only_here TestGiveUpUnread TestManagerDeaf"
# The API and its bounds; what a Prometheus makes of it; programs that cannot take over, which TestUpgradeUnderLoad has in each machine, too:
only_here="$only_here TestAlarms TestStalled TestProbes TestIdleStreams TestScrapeFlood TestRefusedUpgrades TestUnhealthy TestPaused"
# The longest of those in which the kernel has least part; other tests have the same on v2, in 6.12's machine: TestFailPoints, TestHostile,
# TestNested, TestFlood.
only_here="$only_here TestFailPointsBeside TestHostileDaemon TestNestedSuite TestWorst TestLongMountTable"
# What a view keeps of v1 directories on a v2 tree, and what it takes for a command; TestBridgeModel and TestBridgePolicy are in
# 6.12's machine, too:
only_here="$only_here TestBridgeManyHierarchies TestBridgeBudget TestBridgeLateChanges TestBridgeLongWrites"
# Tests whose answers depend on the version of cgroups and not on the kernel's: with v1 they run here, with v2 alone in 6.12's
# machine. What is refused and said; declared guests; names that are taken, by runtimes that TestOCI runs in each machine; the
# exit status of run.
not_older="TestRunRefuses TestMountRefuses TestGuestRefused TestAudit TestDeclared TestNames TestNamesOfHooks TestExitStatus"
# What the server itself counts and bounds, and what a layout shows; the three of attributes took 377 s of 6.1's machine:
not_older="$not_older TestHeldDescriptors TestAttributeBudget TestRemovedAttributes TestTimesAndOwnersBudget TestFlood TestHierarchies"
# The hostile guest meets each kernel's own calls in TestHostile and TestHostileAnswered; what a runtime gives it, and that the worker is
# killed between its attempts, add nothing of the kernel's:
not_older="$not_older TestRuntimeHostile"
# The watchdog, and many containers at once, which 167 and 68 s of 6.1's machine went to:
not_older="$not_older TestStopped TestOCIMany"
# What a bridge refuses and counts, and the races of opens in /proc:
not_older="$not_older TestBridgePolicy TestBridgeBudget TestBridgeManyHierarchies TestProcRaces TestProcKeeps TestProcStuck"
# Whose programs are run as they are.
suites="bullseye bookworm trixie forky"

# on_this_kernel [OPTION...]
on_this_kernel() {
	[ "$(id -u)" = 0 ] || die "the integration tests make cgroups and mounts: run them as root"
	containerd=$(.ci/containerd.sh) || return
	docker=$(.ci/docker.sh) || return
	for suite in $suites; do
		tree=$(.ci/tree.sh "$suite") || return
	done
	btop=$(.ci/btop.sh) || btop= # its test says that it was skipped
	jdk=$(.ci/jdk.sh) || jdk=    # the same
	mount=$(.ci/mount.sh) || mount= # the same
	prometheus=$(.ci/prometheus.sh) || prometheus= # the same
	(cd integration && VCGROUPFS=$PWD/../bin/vcgroupfs VCGROUPFS_FAILPOINTS=$PWD/../bin/vcgroupfs-failpoints VCGROUPFS_CONTAINERD=$containerd \
		VCGROUPFS_DOCKER=$docker VCGROUPFS_BTOP=$btop VCGROUPFS_JDK=$jdk VCGROUPFS_MOUNT=$mount VCGROUPFS_PROMETHEUS=$prometheus VCGROUPFS_TREES=${tree%/*} \
		../bin/integration.test -test.v -test.timeout "$here_limit" "$@")
}

# client_files prints those of the programs that look for their limits. A Java consists of more than what it is linked with.
client_files() {
	files_of runc crun node cgget
	[ -z "$jre" ] || {
		files_of "$jre/bin/java" "$jre/lib/server/libjvm.so"
		ls -d "$jre/lib" /etc/java-*
	}
	[ -z "$btop" ] || ls -d "$btop/usr/bin/btop" "$btop/usr/lib"
	[ -z "$jdk" ] || ls -d "$jdk/lib/x86_64-linux-gnu" "$jdk/usr/lib/x86_64-linux-gnu" "$jdk"/usr/lib/jvm/java-25-*/bin/java "$jdk"/usr/lib/jvm/java-25-*/lib
}

# in_vm NAME SERIES LISTER MACHINE'S OPTIONS [OPTION...] begins the tests in a machine that has the files which LISTER prints, too.
in_vm() {
	name=linux-$1
	series=$2
	lister=$3
	machine=$4
	shift 4
	kernel=$(.ci/kernel.sh "$series")
	set -- -dir /vcgroupfs/integration -env VCGROUPFS=/vcgroupfs/bin/vcgroupfs \
		-env VCGROUPFS_FAILPOINTS=/vcgroupfs/bin/vcgroupfs-failpoints -env VCGROUPFS_SCALE=$vm_scale -- \
		/vcgroupfs/bin/integration.test -test.v -test.timeout "$vm_limit" "$@"
	for path in bin/vcgroupfs bin/vcgroupfs-failpoints bin/integration.test bin/caller32 bin/parallelism testdata integration/testdata packaging/seccomp; do
		[ ! -e "$path" ] || set -- -file "$path=/vcgroupfs/$path" "$@"
	done
	for path in $($lister | sort -u); do
		set -- -file "$(readlink -f "$path")=$path" "$@"
	done
	: >"bin/integration.$name.log" # what follows it is begun before the machine may be
	# shellcheck disable=SC2086 # words
	on_a_processor bin/vm -kernel "$kernel" -timeout 55m $machine "$@" >"bin/integration.$name.log" 2>&1 </dev/null &
	running="$running $name=$!"
}

# on_a_processor COMMAND... becomes a command as soon as fewer of them run than there are processors, in other checkouts, too.
# Only for the background.
on_a_processor() {
	while :; do
		for n in $(seq "$(nproc)"); do
			exec 9>"$cache/processor.$n.lock"
			! flock --nonblock 9 || exec "$@"
		done
		sleep 1
	done
}

# failures NAME prints, of a log, the end of what each test that failed said, and why a machine did.
failures() {
	awk -v name="$1" '
		/^=== RUN +[^\/]*$/ { n = 0 }
		{ said[n++] = $0 }
		/^--- FAIL/ { for (i = n > 40 ? n - 40 : 0; i < n; i++) print name ": " said[i] }
		/^(vm|panic): / { print name ": " $0 }' "bin/integration.$1.log" >&2
}

# judged NAME STATUS says what came of tests, by their status and their skips.
judged() {
	.ci/check-skips "$1" "bin/integration.$1.log" || failed="$failed $1(skips)"
	[ "$2" = 0 ] || {
		failed="$failed $1(status $2)"
		failed_logs="$failed_logs $1"
	}
	say "$1: ended $(($(date +%s) - began)) s after the beginning"
}

began=$(date +%s)
failed=
failed_logs=
running=
trap 'for one in $running; do kill "${one#*=}" 2>/dev/null || :; done' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
. .ci/kernels.sh
for kernel in $kernels; do
	case $kernel in
	here)
		name=linux-$(uname -r)
		log=bin/integration.$name.log
		mkdir -p "$cache"
		say "integration tests: $name"
		{
			flock 8 # a run in another checkout: some tests measure
			on_this_kernel "$@" 8>&- && status=0 || status=$?
			echo "$status" >"$log.status"
		} 2>&1 </dev/null 8>"$cache/here.lock" | tee "$log"
		judged "$name" "$(cat "$log.status")"
		;;
	*-clients)
		jre=$(readlink -f "$(command -v java)") && jre=${jre%/bin/java}
		btop=$(.ci/btop.sh) || btop=
		jdk=$(.ci/jdk.sh) || jdk=
		in_vm "$kernel" "${kernel%-clients}" client_files \
			"-smp 4 -memory 3072 -env PATH=/bin:/sbin:/usr/bin:/usr/sbin:$jre/bin -env VCGROUPFS_BTOP=$btop -env VCGROUPFS_JDK=$jdk" -test.run '^TestClients' "$@"
		;;
	*-type)
		images=
		for suite in $suites; do
			tree=$(.ci/tree.sh "$suite")
			images="$images -image $tree.ext4=/trees/$suite"
		done
		what=TestUnmodified
		[ "$kernel" != 6.1-type ] || what=TestUnmodifiedSystemd # the runtimes, which take 280 s, ask 6.1 what they ask 6.12
		in_vm "$kernel" "${kernel%-type}" "files_of runc" "-memory 3072 -env VCGROUPFS_TREES=/trees$images" -test.run "^$what" "$@"
		;;
	*-v1)
		hierarchies=memory,pids,cpu,cpuacct,cpuset,freezer
		what='TestLent.*|TestTranslateV2View' # what v1 hierarchies lend, where the kernel sends no request again
		[ "$kernel" != 5.10-v1 ] || what='TestMemoryNests|TestProcOpens' # limits that do not nest; no mount_setattr
		in_vm "$kernel" "${kernel%-v1}" "files_of runc" "-v1 $hierarchies" -test.run "^($what)\$" -test.skip '^TestLentManyChildren$' "$@"
		;;
	*)
		clock=host
		left="TestClients $only_here"
		case $kernel in
		6.12) clock=instructions ;;
		*) left="$left $not_older" ;;
		esac
		say "linux-$kernel-vm: not run there: $left"
		in_vm "$kernel-vm" "$kernel" "files_of runc crun" "-clock $clock" -test.skip "^($(echo "$left" | tr ' ' '|'))\$" "$@"
		;;
	esac
done
for machine in $running; do
	name=${machine%=*}
	say "integration tests: $name"
	tail -n +1 -f --pid="${machine#*=}" "bin/integration.$name.log" &
	wait $! # a trap waits for no command in the foreground
	wait "${machine#*=}" && status=0 || status=$?
	judged "$name" "$status"
done
running=
for name in $failed_logs; do
	failures "$name" # again, where the end of the output is all that is kept
done
[ -z "$failed" ] || die "integration tests failed:$failed"
