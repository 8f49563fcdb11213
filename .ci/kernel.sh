#!/bin/sh
# Prints the directory of an unpacked Debian cloud kernel of a series ("6.12", "6.1"), downloaded when it is not cached.
# The package is not installed.
set -eu
cd "$(dirname "$0")/.."
. .ci/lib.sh

[ $# -eq 1 ] || die "usage: $0 SERIES"
usable() { [ -n "$(ls "$1"/boot/vmlinuz-*)" ]; }
# Names: 6.1.0-49-cloud-amd64 and 6.12.111+deb12-cloud-amd64; neither -rt nor -unsigned nor -dbg.
series=$(echo "$1" | sed 's/\./[.]/g')
unpacked "vm/linux-$1" "linux-image-${series}[.][0-9][^ ]*-cloud-amd64 .*"
echo "$dir"
