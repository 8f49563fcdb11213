#!/bin/sh
# Downloads what the integration tests will want, into the cache. It waits for the network most of the time, so it runs beside the unit
# tests. What fails here is tried again, and reported, by the script that needs it.
#
#	.ci/fetch.sh
set -u
cd "$(dirname "$0")/.."
for what in "kernel.sh 6.12" "kernel.sh 6.1" "kernel.sh 5.10" containerd.sh docker.sh "tree.sh bullseye" "tree.sh bookworm" "tree.sh trixie" "tree.sh forky" \
	btop.sh jdk.sh mount.sh prometheus.sh; do
	# shellcheck disable=SC2086 # words
	.ci/$what || echo "not downloaded: $what"
done
