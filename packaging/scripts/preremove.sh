#!/bin/sh
# Before the files go: for good (deb: "remove", rpm: 0) or for a new version's (deb: "upgrade ...", "deconfigure ...", rpm: 1).
# Only a removal for good ends the daemon: that unmounts every view.
set -e

case ${1:-} in
remove | 0) ;;
*) exit 0 ;;
esac
[ -d /run/systemd/system ] && [ -z "${DPKG_ROOT:-}" ] || exit 0
systemctl --no-reload disable --now vcgroupfs.service || echo "vcgroupfs: cannot stop the daemon; it goes on without its files" >&2
