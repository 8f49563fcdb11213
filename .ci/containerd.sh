#!/bin/sh
# Prints the directory of an unpacked containerd 1.7 with its programs (Debian 13's), downloaded when it is not cached: earlier ones have
# no NRI. The package is not installed, and so nothing of it is started.
set -eu
cd "$(dirname "$0")/.."
. .ci/lib.sh

usable() { "$1/usr/bin/containerd" --version >/dev/null; }
unpacked containerd "containerd 1[.]7[.].*"
echo "$dir/usr/bin"
