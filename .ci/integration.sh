#!/bin/sh
# Runs bin/integration.test, which must be built, on this kernel ("here") or in virtual machines with Debian cloud kernels
# of the series named.
#
#	.ci/integration.sh here|6.12|6.1... [-- TEST BINARY'S OPTION...]
set -eu
cd "$(dirname "$0")/.."
. .ci/lib.sh

# In a virtual machine the processor is emulated: the same tests take several times longer there.
here_limit=12m
vm_limit=14m
# How much of the load and of the kills is done there, and at which part of the pace.
vm_scale=0.1

# on_this_kernel [OPTION...]
on_this_kernel() {
	[ "$(id -u)" = 0 ] || die "the integration tests make cgroups and mounts: run them as root"
	(cd integration && VCGROUPFS=$PWD/../bin/vcgroupfs VCGROUPFS_FAILPOINTS=$PWD/../bin/vcgroupfs-failpoints \
		../bin/integration.test -test.v -test.timeout "$here_limit" "$@")
}

# runtime_files prints the files that the container runtimes consist of.
runtime_files() {
	for runtime in runc crun; do
		program=$(command -v "$runtime") || continue
		echo "$program"
		ldd "$program" | awk '$2 == "=>" { print $3 } $1 ~ "^/" { print $1 }'
	done
}

# in_vm SERIES [OPTION...]
in_vm() {
	series=$1
	shift
	kernel=$(.ci/kernel.sh "$series") || return
	set -- -dir /vcgroupfs/integration -env VCGROUPFS=/vcgroupfs/bin/vcgroupfs \
		-env VCGROUPFS_FAILPOINTS=/vcgroupfs/bin/vcgroupfs-failpoints -env VCGROUPFS_SCALE=$vm_scale -- \
		/vcgroupfs/bin/integration.test -test.v -test.timeout "$vm_limit" "$@"
	for path in bin/vcgroupfs bin/vcgroupfs-failpoints bin/integration.test testdata integration/testdata; do
		[ ! -e "$path" ] || set -- -file "$path=/vcgroupfs/$path" "$@"
	done
	# The runtimes that are installed here, with their libraries.
	for path in $(runtime_files | sort -u); do
		set -- -file "$(readlink -f "$path")=$path" "$@"
	done
	bin/vm -kernel "$kernel" -timeout 15m "$@"
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
	*) checked "linux-$kernel-vm" in_vm "$kernel" "$@" ;;
	esac
done
[ -z "$failed" ] || die "integration tests failed:$failed"
