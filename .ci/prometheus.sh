#!/bin/sh
# Prints the directory of an unpacked Prometheus, downloaded when it is not cached: usr/bin/prometheus and usr/bin/promtool. Nothing is
# installed, and no service is started.
set -eu
cd "$(dirname "$0")/.."
. .ci/lib.sh

usable() { "$1/usr/bin/promtool" --version >&2 && "$1/usr/bin/prometheus" --version >&2; }
# 2.42 is Debian 12's, 2.53 is Debian 13's: the rules are read by either.
unpacked prometheus 'prometheus 2[.].*'
echo "$dir"
