#!/bin/sh
# go.uber.org/automaxprocs 1.6.0: a mount of cgroup2 in /proc/self/mountinfo is what it looks for, and then it opens cpu.max by path. It
# asks nobody whether the one leads to the other: with anything mounted over /sys/fs/cgroup, a tmpfs here, it takes its quota from a
# plain file there.
#
#	sh findings/automaxprocs-covered-mount.sh	# as root on Debian 12 with Go
#
# Seen with Linux 6.18: "GOMAXPROCS=1" by the file on the tmpfs, no quota without it, and none where no cgroup2 is mounted below. So
# whoever shows a container its limits by another file system must leave a mount of cgroup2 below, and then is believed. Ends with 1
# when an answer differs.
set -eu
work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
mkdir "$work/asks"
cat >"$work/asks/go.mod" <<-EOF
	module asks
	go 1.24
	require go.uber.org/automaxprocs v1.6.0
EOF
cat >"$work/asks/main.go" <<-'EOF'
	package main

	import (
		"fmt"
		"os"

		"go.uber.org/automaxprocs/maxprocs"
	)

	func main() {
		_, err := maxprocs.Set(maxprocs.Logger(func(text string, args ...any) { fmt.Printf(text+"\n", args...) }))
		if err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
	}
EOF
(cd "$work/asks" && GOFLAGS=-mod=mod GOMODCACHE=$work/modules go mod tidy 2>/dev/null &&
	GOMODCACHE=$work/modules CGO_ENABLED=0 go build -o "$work/ask" .)

# in_namespaces SCRIPT runs it in mount and cgroup namespaces of its own, with nothing but a tmpfs at /sys/fs/cgroup.
in_namespaces() {
	env -u GOMAXPROCS unshare --mount --cgroup --propagation private sh -euc '
		for at in $(awk "\$5 ~ \"^/sys/fs/cgroup\" { print \$5 }" /proc/self/mountinfo | sort -r); do umount -l "$at"; done
		'"$1" sh "$work/ask"
}
{
	echo "covered, with a file:"
	in_namespaces 'mount -t cgroup2 cgroup2 /sys/fs/cgroup
		mount -t tmpfs tmpfs /sys/fs/cgroup
		echo 100000 100000 >/sys/fs/cgroup/cpu.max
		"$1"'
	echo "covered, without:"
	in_namespaces 'mount -t cgroup2 cgroup2 /sys/fs/cgroup
		mount -t tmpfs tmpfs /sys/fs/cgroup
		"$1"'
	echo "the file, and no cgroup2 below:"
	in_namespaces 'mount -t tmpfs tmpfs /sys/fs/cgroup
		echo 100000 100000 >/sys/fs/cgroup/cpu.max
		"$1"'
} | tee "$work/got"
sed 's/GOMAXPROCS=[0-9]*: CPU quota undefined/no quota/' "$work/got" | diff - /dev/fd/3 3<<-EOF
	covered, with a file:
	maxprocs: Updating GOMAXPROCS=1: determined from CPU quota
	covered, without:
	maxprocs: Leaving no quota
	the file, and no cgroup2 below:
	maxprocs: Leaving no quota
EOF
