#!/bin/sh
# Prints the directory of an unpacked Debian cloud kernel of a series ("6.12", "6.1"), downloaded when it is not cached.
# The package is not installed.
set -eu
cd "$(dirname "$0")/.."
. .ci/lib.sh

[ $# -eq 1 ] || die "usage: $0 SERIES"
dir=$cache/vm/linux-$1
mkdir -p "$cache/vm"
exec 9>"$dir.lock"
flock 9
if [ ! -e "$dir/ready" ]; then
	work=$(mktemp -d "$cache/vm/new.XXXXXX")
	trap 'rm -rf "$work"' EXIT
	# Names: 6.1.0-49-cloud-amd64 and 6.12.111+deb12-cloud-amd64; neither -rt nor -unsigned nor -dbg.
	series=$(echo "$1" | sed 's/\./[.]/g')
	download "linux-image-${series}[.][0-9][^ ]*-cloud-amd64 .*" "$work"
	mkdir "$work/root"
	dpkg-deb -x "$work"/*.deb "$work/root"
	[ -n "$(ls "$work"/root/boot/vmlinuz-*)" ] || die "no vmlinuz in the package"
	touch "$work/root/ready"
	rm -rf "$dir"
	mv "$work/root" "$dir"
fi
echo "$dir"
