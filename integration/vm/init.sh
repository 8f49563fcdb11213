#!/bin/sh
# Process 1 of the virtual machine: makes it a host with cgroup v2, and v1 hierarchies for the controllers in /vm/v1, runs /vm/command and says its status.
/bin/busybox mkdir -p /bin /dev /proc /sys /new
/bin/busybox --install -s /bin
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/root TMPDIR=/tmp TERM=dumb

# The kernel's first root cannot be pivoted away from, which programs that make containers do: move to a tmpfs.
if [ "$1" != second ]; then
	mount -t tmpfs -o mode=755 root /new
	for entry in /*; do
		[ "$entry" = /new ] || cp -a "$entry" /new/
	done
	exec switch_root /new /init second
fi

mkdir -p /root /tmp /run /sys /proc
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t proc -o nosuid,nodev,noexec proc /proc
mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
mount -t devpts devpts /dev/pts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t tmpfs -o mode=755 tmpfs /run
ln -s /proc/self/fd /dev/fd
ln -s /proc/self/mounts /etc/mtab
stty -F /dev/ttyS1 raw -echo
exec </dev/null >/dev/ttyS1 2>&1

for module in /vm/modules/*.ko; do
	[ ! -e "$module" ] || insmod "$module" || echo "vm: cannot load $module"
done
while read -r serial place; do
	for disk in /sys/block/vd*; do
		[ "$(cat "$disk/serial")" = "$serial" ] || continue
		mkdir -p "$place"
		mount -t ext4 -o ro "/dev/${disk##*/}" "$place" || echo "vm: cannot mount $place"
	done
done </vm/images
# $hierarchies are the mounts; with v1 hierarchies they are where systemd has them.
unified=/sys/fs/cgroup
hierarchies=
read -r legacy </vm/v1
if [ -n "$legacy" ]; then
	mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
	unified=/sys/fs/cgroup/unified
	for controller in $legacy; do
		at=/sys/fs/cgroup/$controller
		mkdir "$at"
		mount -t cgroup -o "$controller" cgroup "$at" || echo "vm: cannot mount $controller"
		hierarchies="$hierarchies $at"
	done
	mkdir $unified
fi
hierarchies="$hierarchies $unified"
mount -t cgroup2 -o nosuid,nodev,noexec,nsdelegate,memory_recursiveprot cgroup2 $unified
# shellcheck disable=SC2013 # words
for controller in $(cat $unified/cgroup.controllers); do
	echo "+$controller" >$unified/cgroup.subtree_control || echo "vm: cannot enable $controller"
done
# The kernel patches its own code when the first cpuset and the first quota of processor time come, and when the last goes. With
# two emulated processors that can end in an int3 that nobody expects: these stay.
for at in $hierarchies; do
	mkdir "$at/vm"
	[ ! -e "$at/vm/cpu.max" ] || echo "100000 100000" >"$at/vm/cpu.max"
	[ ! -e "$at/vm/cpu.cfs_quota_us" ] || echo 100000 >"$at/vm/cpu.cfs_quota_us"
done
ip link set lo up
hostname vm
# An emulated processor is slow: a soft lockup here takes longer than on a real one, a hung task does not.
echo 60 >/proc/sys/kernel/watchdog_thresh
echo 60 >/proc/sys/kernel/hung_task_timeout_secs

read -r up _ </proc/uptime
echo "vm: Linux $(uname -r), $(nproc) processors, up ${up}s, controllers: $(cat $unified/cgroup.subtree_control)${legacy:+, v1: $legacy}"
/vm/command
status=$?

# left NAME WORDS... fails the run when there are any words.
left() {
	name=$1
	shift
	[ $# -gt 0 ] || return 0
	echo "vm: left behind: $name: $*"
	[ "$status" -ne 0 ] || status=1
}

# Cgroups and processes go a moment after what held them.
for _ in 1 2 3 4 5 6 7 8 9 10; do
	# shellcheck disable=SC2086 # one word each
	cgroups=$(find $hierarchies -mindepth 1 -type d ! -path '*/vm')
	# Without a subshell, which would be one more process. Kernel threads have no program.
	processes=
	for p in /proc/[0-9]*; do
		if [ "$p" != /proc/1 ] && [ -e "$p/exe" ] && read -r comm <"$p/comm"; then
			processes="$processes ${p#/proc/}($comm)"
		fi
	done 2>/dev/null
	mounts=$(awk '/ - fuse/ { print $5 }' /proc/self/mountinfo)
	[ -n "$cgroups$processes$mounts" ] || break
	sleep 0.2
done
# shellcheck disable=SC2086 # one word each
{
	left cgroups $cgroups
	left processes $processes
	left mounts $mounts
}
echo "=== vm: exit status $status ==="
stty -F /dev/ttyS1 raw # returns when all is sent
reboot -f
