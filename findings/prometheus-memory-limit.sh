#!/bin/sh
# Prometheus 3.5.3 takes 0.9 of its cgroup's memory limit for GOMEMLIMIT. Where it sees no mount of cgroups it takes 0.9 of the host's
# memory, and logs the same success: the two lines differ in the number alone. The limit holds all the same, and the kernel kills it there.
#
#	sh findings/prometheus-memory-limit.sh	# as root on Debian 12
#
# Seen on Linux 6.18: in a cgroup of 200 MiB "GOMEMLIMIT is updated" with 188743680, and with 22748859187 on a host of 24 GiB when
# nothing is mounted at /sys/fs/cgroup. Its fallback is automemlimit's (FromCgroup, then FromSystem), which does not say which of them
# answered. Ends with 1 when a line differs.
set -eu
cd "$(dirname "$0")/.."
work=$(mktemp -d)
cgroup=
trap 'rmdir $cgroup; rm -rf "$work"' EXIT
export XDG_CACHE_HOME="$work/cache"
. .ci/lib.sh

for package in 'prometheus 3[.]5[.]3[+]ds1-6' 'libc6 2[.]4[1-9].*'; do
	download "$package" "$work"
done
for package in "$work"/*.deb; do
	dpkg-deb -x "$package" "$work/root"
done
touch "$work/empty.yml"

root=/sys/fs/cgroup file=memory.max
if [ -e $root/memory/memory.limit_in_bytes ]; then
	root=$root/memory file=memory.limit_in_bytes
else
	grep -qw memory $root/cgroup.subtree_control || die "the memory controller is not enabled for $root's children"
fi
mkdir "$root/finding.$$"
cgroup=$root/finding.$$
echo 209715200 >"$cgroup/$file"

# limit SCRIPT prints the number that Prometheus logs, in that cgroup and in a mount namespace in which a script was run.
limit() {
	lib=$work/root/usr/lib/x86_64-linux-gnu
	# shellcheck disable=SC2016 # the inner shell expands them
	env -u GOMEMLIMIT unshare --mount --propagation private sh -euc '
		echo $$ >"$1/cgroup.procs"
		'"$1"'
		"$2/ld-linux-x86-64.so.2" --library-path "$2" "$3/root/usr/bin/prometheus" --config.file="$3/empty.yml" \
			--storage.tsdb.path="$3/data" --web.listen-address=127.0.0.1:0 >"$3/log" 2>&1 &
		until grep -q GOMEMLIMIT "$3/log" || ! kill -0 $!; do sleep 0.1; done
		kill $!
		wait $! || :
		' sh "$cgroup" "$lib" "$work" || die "$(cat "$work/log")"
	sed -n 's/.*msg="GOMEMLIMIT is updated".* GOMEMLIMIT=\([0-9]*\) .*/\1/p' "$work/log"
}
seen=$(limit :)
# shellcheck disable=SC2016 # the inner shell expands them
unseen=$(limit 'for at in $(awk "\$5 ~ \"^/sys/fs/cgroup\" { print \$5 }" /proc/self/mountinfo | sort -r); do umount -l "$at"; done')
host=$(($(awk '/^MemTotal:/ { print $2 }' /proc/meminfo) * 1024 * 9 / 10))
echo "cgroups in sight: GOMEMLIMIT is updated: $seen"
echo "none in sight: GOMEMLIMIT is updated: $unseen (0.9 of the host's memory: $host)"
[ "$seen" = 188743680 ] && [ "$unseen" = "$host" ]
