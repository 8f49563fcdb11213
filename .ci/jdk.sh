#!/bin/sh
# Prints a directory with the files of a Java, of version 25 or newer or of 8, and of the C library that it wants. Debian 12 has neither,
# and one of a later suite runs on that suite's C library.
#
#	.ci/jdk.sh [8]
set -eu
cd "$(dirname "$0")/.."
. .ci/lib.sh

usable() { [ -n "$(ls "$1"/usr/lib/jvm/*/bin/java)" ]; }

version=${1:-25}
unpacked "jdk-$version" "openjdk-$version-jre-headless .*" 'libc6 2[.]([5-9][0-9]|4[1-9]).*' 'libgcc-s1 1[4-9].*' \
	'libstdc[+][+]6 1[4-9].*' 'zlib1g .*'
echo "$dir"
