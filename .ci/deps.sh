#!/bin/sh
# Installs what the tests need on Debian, when it is not there.
set -eu
cd "$(dirname "$0")/.."
. .ci/lib.sh

# Rust of Debian 12 itself is from before its standard library knew cgroup v1.
rust=rustc
if ! command -v rustc >/dev/null; then
	update_lists
	! apt-cache show rustc-web >/dev/null 2>&1 || rust=rustc-web
fi
install_missing qemu-system-x86_64=qemu-system-x86 busybox=busybox-static xz=xz-utils mke2fs=e2fsprogs 'gcc=gcc libc6-dev' runc=runc crun=crun \
	lxc-start=lxc bwrap=bubblewrap podman=podman systemd-nspawn=systemd-container /lib/systemd/systemd=systemd \
	node=nodejs java=default-jre-headless cgget=cgroup-tools "rustc=$rust"
