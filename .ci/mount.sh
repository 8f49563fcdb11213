#!/bin/sh
# Prints the directory of an unpacked util-linux of Debian 13 or later, whose mount(8) uses the kernel's newer calls first, with the
# libraries it wants, downloaded when they are not cached: usr/bin/mount and usr/lib/x86_64-linux-gnu. Nothing is installed.
set -eu
cd "$(dirname "$0")/.."
. .ci/lib.sh

usable() {
	lib=$1/usr/lib/x86_64-linux-gnu
	"$lib/ld-linux-x86-64.so.2" --library-path "$lib" "$1/usr/bin/mount" --version >&2
}
unpacked mount 'mount 2[.]4[1-9].*' 'libmount1 2[.]4[1-9].*' 'libblkid1 2[.]4[1-9].*' 'libsmartcols1 2[.]4[1-9].*' 'libc6 2[.]4[1-9].*' \
	'libselinux1 3[.].*' 'libpcre2-8-0 10[.]4.*'
echo "$dir"
