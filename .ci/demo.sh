#!/bin/sh
# Starts a small guest and shows the root that it sees, a limit that it cannot raise, a child cgroup that it makes and
# limits, and the same child seen from the host. bin/vcgroupfs must be built.
set -eu
cd "$(dirname "$0")/.."
. .ci/lib.sh

[ "$(id -u)" = 0 ] || die "a guest needs cgroups and namespaces: run the demo as root"
name=demo-$$
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkfifo "$work/to" "$work/from"

# v1 has a directory per controller and its own names for files; v2 one tree.
if grep -q ' - cgroup .*\bmemory\b' /proc/self/mountinfo; then
	limit=memory.limit_in_bytes memory=memory/ pids=pids/ enable=
else
	limit=memory.max memory="" pids="" enable='show "echo +memory +pids > cgroup.subtree_control"'
fi

# The guest prints what it does and then waits for the host to have looked.
# shellcheck disable=SC2016 # expanded in the guest
guest='
show() {
	echo "guest# $1"
	eval "$1" 2>&1 | sed "s/^/    /"
}
cd /sys/fs/cgroup
show "ls"
show "cat '$memory$limit'"
show "echo 1G > '$memory$limit'"
show "echo max > '$pids'pids.max"
'$enable'
sleep 60 &
show "mkdir '$memory'a && echo 64M > '${memory}a/$limit' && echo $! > '$memory'a/cgroup.procs"
show "cat '${memory}a/$limit' '$memory'a/cgroup.procs"
echo @host
read -r _
kill $!
'

# host_view shows the guest's cgroup "a" in the host's own tree.
host_view() {
	dir=$(find /sys/fs/cgroup -type d -path "*$name*/a" | head -n 1)
	[ -n "$dir" ] || die "the guest's cgroup is not in the host's tree"
	echo "host#  cd $dir; stat -c '%U %n' .; cat $limit cgroup.procs"
	(cd "$dir" && stat -c '%U %n' . && cat "$limit" cgroup.procs) | sed 's/^/    /'
}

bin/vcgroupfs run --name "$name" --controllers memory,pids --limit pids.max=64 --limit "$limit=256M" -- \
	sh -c "$guest" <"$work/to" >"$work/from" 2>&1 &
exec 3>"$work/to"
while read -r line; do
	case $line in
	@host)
		host_view
		echo >&3
		;;
	guest*) echo "$line" ;;
	*) echo "    $line" ;;
	esac
done <"$work/from"
wait $!
