#!/bin/sh
# Runs the programs of .ci/tree.sh's tree "clients" in containers with limits, on this kernel and in a virtual machine with
# Linux 6.12, and compares what each finds with doctor's table.
#
#	.ci/clients.sh [here] [6.12...] [-- TEST BINARY'S OPTION...]
#
# bin/vcgroupfs, bin/integration.test and bin/vm must be built. With UPDATE=1 nothing is compared: what was found goes into
# cmd/internal/doctor/ran.tsv, in place of what earlier runs of the same programs on the same kernel have put there, and from
# there into docs/clients.md.
set -eu
cd "$(dirname "$0")/.."
. .ci/lib.sh

# An emulated processor starts a Prometheus in a minute.
here_limit=25m
vm_limit=85m
tests='^TestClientsMore'
table=cmd/internal/doctor/ran.tsv

# on_this_kernel TREE [OPTION...]
on_this_kernel() {
	[ "$(id -u)" = 0 ] || die "the tests make cgroups and mounts: run them as root"
	tree=$1
	shift
	(cd integration && VCGROUPFS=$PWD/../bin/vcgroupfs VCGROUPFS_CLIENTS=$tree VCGROUPFS_CLIENTS_UPDATE=${UPDATE:-} \
		../bin/integration.test -test.v -test.timeout "$here_limit" -test.run "$tests" "$@")
}

# in_vm SERIES TREE [OPTION...] runs them in a machine that has the tree's image as a disk.
in_vm() {
	kernel=$(.ci/kernel.sh "$1")
	image=$2.ext4
	shift 2
	set -- -smp 4 -memory 3072 -image "$image=/trees/clients" -dir /vcgroupfs/integration -env VCGROUPFS=/vcgroupfs/bin/vcgroupfs \
		-env VCGROUPFS_CLIENTS=/trees/clients -env "VCGROUPFS_CLIENTS_UPDATE=${UPDATE:-}" -file bin/vcgroupfs=/vcgroupfs/bin/vcgroupfs \
		-file bin/asks=/vcgroupfs/bin/asks -file bin/integration.test=/vcgroupfs/bin/integration.test -- \
		/vcgroupfs/bin/integration.test -test.v -test.timeout "$vm_limit" -test.run "$tests" "$@"
	command -v runc >/dev/null || die "missing: runc; make deps installs it"
	for file in $(files_of runc); do
		set -- -file "$(readlink -f "$file")=$file" "$@"
	done
	bin/vm -kernel "$kernel" -timeout 86m "$@"
}

# noted LOG... puts the lines of logs that say what ran into the table.
noted() {
	sed -n 's/\r*$//; s/^ran\t//p' "$@" >bin/ran.new
	# By program, kernel, sight and type.
	awk -F '\t' 'NR == FNR { ran[$1, $3, $5, $6] = 1; print; next } !(($1, $3, $5, $6) in ran)' bin/ran.new "$table" |
		LC_ALL=C sort -u >bin/ran.tsv
	mv bin/ran.tsv "$table"
	VCGROUPFS_UPDATE=1 quiet "${GO:-go}" test -count=1 -run TestDocumented ./cmd/internal/doctor
	git --no-pager diff --stat -- "$table" docs/clients.md
}

. .ci/kernels.sh
tree=$(.ci/tree.sh clients)
say "building Go modules that look for limits"
CGO_ENABLED=0 quiet "${GO:-go}" -C integration/clients/asks build -trimpath -o "$PWD/bin/asks" .
failed=
logs=
for kernel in ${kernels:-here 6.12}; do
	log=bin/clients.$kernel.log
	say "programs that look for their limits: $kernel"
	{
		if [ "$kernel" = here ]; then
			on_this_kernel "$tree" "$@" && status=0 || status=$?
		else
			in_vm "$kernel" "$tree" "$@" && status=0 || status=$?
		fi
		echo "$status" >"$log.status"
	} 2>&1 </dev/null | tee "$log"
	.ci/check-skips "clients-$kernel" "$log" || failed="$failed $kernel(skips)"
	[ "$(cat "$log.status")" = 0 ] || failed="$failed $kernel"
	logs="$logs $log"
done
# shellcheck disable=SC2086 # words
[ -z "${UPDATE:-}" ] || noted $logs
[ -z "$failed" ] || die "programs differ from doctor's table:$failed"
