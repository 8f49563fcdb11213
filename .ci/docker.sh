#!/bin/sh
# Prints the directory of an unpacked Docker with its programs (Debian 13's), downloaded when it is not cached: earlier ones have no CDI. The
# packages are not installed, and so nothing of them is started.
set -eu
cd "$(dirname "$0")/.."
. .ci/lib.sh

usable() { "$1/usr/sbin/dockerd" --version >&2 && "$1/usr/bin/docker" --version >&2; }
unpacked docker 'docker[.]io 2[6-9][.].*' 'docker-cli 2[6-9][.].*'
echo "$dir"
