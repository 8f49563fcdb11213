#!/bin/sh
# Prints the directory of an unpacked containerd 1.7 with its programs (Debian 13's), downloaded when it is not cached: earlier ones have
# no NRI. The package is not installed, and so nothing of it is started.
set -eu
cd "$(dirname "$0")/.."
. .ci/lib.sh

dir=$cache/containerd
mkdir -p "$cache"
exec 9>"$dir.lock"
flock 9
if [ ! -e "$dir/ready" ]; then
	work=$(mktemp -d "$cache/new.XXXXXX")
	trap 'rm -rf "$work"' EXIT
	download "containerd 1[.]7[.].*" "$work"
	mkdir "$work/root"
	dpkg-deb -x "$work"/*.deb "$work/root"
	"$work/root/usr/bin/containerd" --version >/dev/null
	touch "$work/root/ready"
	rm -rf "$dir"
	mv "$work/root" "$dir"
fi
echo "$dir/usr/bin"
