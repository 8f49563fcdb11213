#!/bin/sh
# Runs the benchmark: one table of operations, native, through a view and through LXCFS, in the same run.
#
#	.ci/bench.sh [TEST BINARY'S OPTION...]
set -eu
cd "$(dirname "$0")/.."
. .ci/lib.sh

[ "$(id -u)" = 0 ] || die "the benchmark makes cgroups and mounts: run it as root"
lxcfs=$(.ci/lxcfs.sh)
export VCGROUPFS="$PWD/bin/vcgroupfs" VCGROUPFS_LXCFS="$lxcfs/lxcfs" VCGROUPFS_LXCFS_LIBS="$lxcfs/lib"
cd integration
exec ../bin/integration.test -test.run '^$' -test.bench . -test.benchtime 1x -test.timeout 20m "$@"
