#!/bin/sh
# Prints a directory with the files of a Java of version 25 or newer and of the C library that it wants. Debian 12 has none, and one of
# a later suite runs on that suite's C library.
set -eu
cd "$(dirname "$0")/.."
. .ci/lib.sh

usable() { [ -n "$(echo "$1"/usr/lib/jvm/*/bin/java)" ]; }

unpacked jdk-25 'openjdk-25-jre-headless .*' 'libc6 2[.]([5-9][0-9]|4[1-9]).*' 'libgcc-s1 1[4-9].*' 'libstdc[+][+]6 1[4-9].*' 'zlib1g .*'
echo "$dir"
