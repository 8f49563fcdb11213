#!/bin/sh
# Prints the directory of an unpacked LXCFS 5.0.3, the last in a Debian release before its cgroup tree was deprecated and
# removed: DIR/lxcfs is the program, DIR/lib its libraries. Nothing is installed and no service starts.
set -eu
cd "$(dirname "$0")/.."
. .ci/lib.sh

dir=$cache/lxcfs-5.0.3
mkdir -p "$cache"
exec 9>"$dir.lock"
flock 9
if [ ! -e "$dir/lxcfs" ]; then
	work=$(mktemp -d "$cache/new.XXXXXX")
	trap 'rm -rf "$work"' EXIT
	download 'lxcfs 5[.]0[.]3.*' "$work"
	download 'libfuse3-3 3[.].*' "$work"
	for package in "$work"/*.deb; do
		dpkg-deb -x "$package" "$work/root"
	done
	mkdir "$work/new" "$work/new/lib"
	find "$work/root" \( -name 'libfuse3.so.*' -o -name liblxcfs.so \) -exec cp -P {} "$work/new/lib/" \;
	cp "$work/root/usr/bin/lxcfs" "$work/new/lxcfs"
	LD_LIBRARY_PATH=$work/new/lib "$work/new/lxcfs" --version >&2
	rm -rf "$dir"
	mv "$work/new" "$dir"
fi
echo "$dir"
