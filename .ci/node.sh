#!/bin/sh
# Prints a directory with the files of a Node.js of version 18, the last that knows no cgroup2, and of all that it is linked with.
set -eu
cd "$(dirname "$0")/.."
. .ci/lib.sh

usable() { chroot "$1" /usr/bin/node -p process.version >&2; }

unpacked node-18 'nodejs 18[.].*' 'libnode108 .*' 'node-acorn .*' 'node-cjs-module-lexer .*' 'node-undici 5[.].*' 'libuv1 1[.]44[.].*' \
	'libicu72 .*' 'libssl3 3[.]0[.].*' 'libc-ares2 .*' 'libnghttp2-14 .*' 'libbrotli1 .*' 'zlib1g .*' 'libstdc[+][+]6 1[2-9].*' \
	'libgcc-s1 1[2-9].*' 'libc6 2[.]3[6-9].*'
echo "$dir"
