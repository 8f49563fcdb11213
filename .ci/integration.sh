#!/bin/sh
# Runs bin/integration.test, which must be built, on this kernel ("here") or in virtual machines with Debian cloud kernels
# of the series named.
#
#	.ci/integration.sh here|6.12|6.1|6.12-clients... [-- TEST BINARY'S OPTION...]
#
# A machine called SERIES-clients runs TestClients and TestClientsCpuset alone: it has the programs that look for their limits, and more
# processors than those allow them.
set -eu
cd "$(dirname "$0")/.."
. .ci/lib.sh

# In a virtual machine the processor is emulated: the same tests take several times longer there.
here_limit=15m
vm_limit=25m
# How much of the load and of the kills is done there, and at which part of the pace.
vm_scale=0.1

# on_this_kernel [OPTION...]
on_this_kernel() {
	[ "$(id -u)" = 0 ] || die "the integration tests make cgroups and mounts: run them as root"
	containerd=$(.ci/containerd.sh) || return
	docker=$(.ci/docker.sh) || return
	btop=$(.ci/btop.sh) || btop= # its test says that it was skipped
	(cd integration && VCGROUPFS=$PWD/../bin/vcgroupfs VCGROUPFS_FAILPOINTS=$PWD/../bin/vcgroupfs-failpoints VCGROUPFS_CONTAINERD=$containerd \
		VCGROUPFS_DOCKER=$docker VCGROUPFS_BTOP=$btop ../bin/integration.test -test.v -test.timeout "$here_limit" "$@")
}

# files_of PROGRAM... prints the files that programs consist of, those that are installed.
files_of() {
	for name; do
		program=$(command -v "$name") || continue
		echo "$program"
		ldd "$program" | awk '$3 ~ "^/" { print $3 } $1 ~ "^/" { print $1 }'
	done
}

# client_files prints those of the programs that look for their limits. A Java consists of more than what it is linked with.
client_files() {
	files_of runc crun node cgget
	[ -z "$jre" ] || {
		files_of "$jre/bin/java" "$jre/lib/server/libjvm.so"
		ls -d "$jre/lib" /etc/java-*
	}
	[ -z "$btop" ] || ls -d "$btop/usr/bin/btop" "$btop/usr/lib"
}

# in_vm SERIES LISTER MACHINE'S OPTIONS [OPTION...] runs the tests in a machine that has the files which LISTER prints, too.
in_vm() {
	series=$1
	lister=$2
	machine=$3
	shift 3
	kernel=$(.ci/kernel.sh "$series") || return
	set -- -dir /vcgroupfs/integration -env VCGROUPFS=/vcgroupfs/bin/vcgroupfs \
		-env VCGROUPFS_FAILPOINTS=/vcgroupfs/bin/vcgroupfs-failpoints -env VCGROUPFS_SCALE=$vm_scale -- \
		/vcgroupfs/bin/integration.test -test.v -test.timeout "$vm_limit" "$@"
	for path in bin/vcgroupfs bin/vcgroupfs-failpoints bin/integration.test bin/parallelism testdata integration/testdata; do
		[ ! -e "$path" ] || set -- -file "$path=/vcgroupfs/$path" "$@"
	done
	for path in $($lister | sort -u); do
		set -- -file "$(readlink -f "$path")=$path" "$@"
	done
	# shellcheck disable=SC2086 # words
	bin/vm -kernel "$kernel" -timeout 26m $machine "$@"
}

# checked NAME COMMAND... runs the tests, shows what they print as it comes, and judges their status and their skips.
checked() {
	name=$1
	shift
	log=bin/integration.$name.log
	say "integration tests: $name"
	began=$(date +%s)
	{
		"$@" && status=0 || status=$?
		echo "$status" >"$log.status"
	} 2>&1 </dev/null | tee "$log"
	status=$(cat "$log.status")
	.ci/check-skips "$name" "$log" || failed="$failed $name(skips)"
	[ "$status" = 0 ] || failed="$failed $name(status $status)"
	say "$name: $(($(date +%s) - began)) s"
}

kernels=
while [ $# -gt 0 ]; do
	[ "$1" != -- ] || {
		shift
		break
	}
	kernels="$kernels $1"
	shift
done
failed=
for kernel in $kernels; do
	case $kernel in
	here) checked "linux-$(uname -r)" on_this_kernel "$@" ;;
	*-clients)
		jre=$(readlink -f "$(command -v java)") && jre=${jre%/bin/java}
		btop=$(.ci/btop.sh) || btop=
		checked "linux-$kernel" in_vm "${kernel%-clients}" client_files \
			"-smp 4 -memory 2048 -env PATH=/bin:/sbin:/usr/bin:/usr/sbin:$jre/bin -env VCGROUPFS_BTOP=$btop" -test.run '^TestClients' "$@"
		;;
	*) checked "linux-$kernel-vm" in_vm "$kernel" "files_of runc crun" "" -test.skip '^TestClients$' "$@" ;;
	esac
done
[ -z "$failed" ] || die "integration tests failed:$failed"
