#!/bin/sh
# After the files of a new version are there: of an install (deb: "configure", rpm: 1), an upgrade (deb: "configure OLD",
# rpm: 2), or a removal that failed (deb: "abort-...").
#
# The service is neither enabled nor started, on Debian too, where packages commonly do: a daemon without declared guests has
# nothing to serve, its flags are the administrator's to choose first, and "vcgroupfs run" and "mount" need no daemon. One that
# runs is given the new program under its guests; a restart would take every view away.
set -e

[ -d /run/systemd/system ] && [ -z "${DPKG_ROOT:-}" ] || exit 0
systemctl daemon-reload || exit 0
if systemctl is-active --quiet vcgroupfs.service; then
	systemctl reload vcgroupfs.service || {
		echo "vcgroupfs: the daemon goes on as the program that it was: journalctl -u vcgroupfs says why." >&2
		echo "vcgroupfs: its guests are not affected. Try again with: systemctl reload vcgroupfs" >&2
	}
fi
