#!/bin/sh
# Prints the path of the program as a commit builds it. Builds are kept in the cache.
#
#	.ci/before.sh COMMIT
set -eu
cd "$(dirname "$0")/.."
. .ci/lib.sh

commit=$(git rev-parse --verify "$1^{commit}")
dir=$cache/before/$commit
if [ ! -x "$dir/bin/vcgroupfs" ]; then
	say "building $commit"
	rm -rf "$dir"
	mkdir -p "$dir"
	git archive "$commit" | tar -x -C "$dir"
	quiet make -C "$dir" build
fi
echo "$dir/bin/vcgroupfs"
