#!/bin/sh
# Prints the directory of an unpacked btop, of the first series that looks at cgroups, with the C library it wants, downloaded when they
# are not cached: usr/bin/btop and usr/lib/x86_64-linux-gnu. Nothing is installed.
set -eu
cd "$(dirname "$0")/.."
. .ci/lib.sh

usable() {
	lib=$1/usr/lib/x86_64-linux-gnu
	"$lib/ld-linux-x86-64.so.2" --library-path "$lib" "$1/usr/bin/btop" --version >&2
}
# Debian 13 has older ones; forky's is built with GCC 15.
unpacked btop 'btop 1[.]4[.]([6-9]|[1-9][0-9]).*' 'libc6 2[.]4[1-9].*' 'libstdc\+\+6 1[5-9].*' 'libgcc-s1 1[5-9].*'
echo "$dir"
