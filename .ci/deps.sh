#!/bin/sh
# Installs what the tests need on Debian, when it is not there.
set -eu
cd "$(dirname "$0")/.."
. .ci/lib.sh

install_missing qemu-system-x86_64=qemu-system-x86 busybox=busybox-static xz=xz-utils 'gcc=gcc libc6-dev' runc=runc crun=crun \
	lxc-start=lxc bwrap=bubblewrap podman=podman systemd-nspawn=systemd-container /lib/systemd/systemd=systemd
