#!/bin/sh
# Prints the directory of an unpacked LXCFS 5.0.3, the last in a Debian release before its cgroup tree was deprecated and
# removed: DIR/lxcfs is the program, DIR/lib its libraries. Nothing is installed and no service starts.
set -eu
cd "$(dirname "$0")/.."
. .ci/lib.sh

usable() {
	new=$1/new
	mkdir -p "$new/lib" &&
		find "$1/usr" "$1/lib" \( -name 'libfuse3.so.*' -o -name liblxcfs.so \) -exec cp -P {} "$new/lib/" \; &&
		cp "$1/usr/bin/lxcfs" "$new/lxcfs" && LD_LIBRARY_PATH=$new/lib "$new/lxcfs" --version >&2
}
unpacked lxcfs-5.0.3 'lxcfs 5[.]0[.]3.*' 'libfuse3-3 3[.].*'
echo "$dir/new"
