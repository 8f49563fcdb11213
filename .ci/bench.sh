#!/bin/sh
# Runs the benchmarks. The table of operations has them natively, through LXCFS, through a view of the build named by BEFORE (a commit,
# by default the last one before work on speed began; none if it is empty or not in this repository) and through a view, in the same run.
#
#	[BEFORE=COMMIT] .ci/bench.sh [TEST BINARY'S OPTION...]
set -eu
cd "$(dirname "$0")/.."
. .ci/lib.sh

[ "$(id -u)" = 0 ] || die "the benchmark makes cgroups and mounts: run it as root"
lxcfs=$(.ci/lxcfs.sh)
before=${BEFORE-4b558ec9ccec2228a127c6e996bbcb8ac1be2684}
if [ -n "$before" ] && git cat-file -e "$before^{commit}" 2>/dev/null; then
	VCGROUPFS_BEFORE=$(.ci/before.sh "$before")
	export VCGROUPFS_BEFORE
fi
export VCGROUPFS="$PWD/bin/vcgroupfs" VCGROUPFS_LXCFS="$lxcfs/lxcfs" VCGROUPFS_LXCFS_LIBS="$lxcfs/lib"
cd integration
exec ../bin/integration.test -test.run '^$' -test.bench . -test.benchtime 1x -test.timeout 40m "$@"
