#!/bin/sh
# Runs the benchmark of what answers statfs of views by BPF, in a virtual machine: a host that is locked down has no such programs.
#
#	.ci/bench-type.sh [SERIES]
set -eu
cd "$(dirname "$0")/.."
. .ci/lib.sh

kernel=$(.ci/kernel.sh "${1:-6.12}")
exec bin/vm -kernel "$kernel" -dir /vcgroupfs/integration -env VCGROUPFS=/vcgroupfs/bin/vcgroupfs \
	-file bin/vcgroupfs=/vcgroupfs/bin/vcgroupfs -file bin/integration.test=/vcgroupfs/bin/integration.test -- \
	/vcgroupfs/bin/integration.test -test.run '^$' -test.bench 'Type' -test.benchtime 1x
