#!/bin/bash
# Draws what a guest's reader notices of the death of the process that serves it: prints an SVG of how long each read took (open, read, close;
# the longest of each 5 ms), while that process is killed with SIGKILL, twice. bin/vcgroupfs must be built.
set -eu
cd "$(dirname "$0")/.."
. .ci/lib.sh

[ "$(id -u)" = 0 ] || die "a guest needs cgroups and mounts: run this as root"
work=$(mktemp -d)
name=reader-$$
cgroup=$(awk '$9 ~ /^cgroup/ && /pids|cgroup2/ { print $5; exit }' /proc/self/mountinfo)/$name
mkdir "$cgroup" "$work/view" "$work/guests"
daemon=
ended() {
	[ -z "$daemon" ] || kill "$daemon" 2>/dev/null || :
	wait
	rmdir "$cgroup"
	rm -rf "$work"
}
trap ended EXIT

export VCGROUPFS_SOCKET=$work/api.sock
bin/vcgroupfs serve --no-bpf --notify "" --guests "$work/guests" 2>"$work/log" &
daemon=$!
until bin/vcgroupfs guest ls >/dev/null 2>&1; do
	kill -0 "$daemon" || die "the daemon ended: $(cat "$work/log")"
	sleep 0.1
done
bin/vcgroupfs guest add "$name" --boundary "/$name" --controllers pids --target "$work/view" >/dev/null
file=$(find "$work/view" -name pids.max | head -n 1)

# Each line: when a read began, how long it took (s, µs), and how many have failed.
failed=0
began=${EPOCHREALTIME/./}
last=0
until [ "$last" -gt 3000000 ]; do
	now=${EPOCHREALTIME/./}
	{ read -r value <"$file"; } 2>/dev/null && [ "$value" = max ] || failed=$((failed + 1))
	end=${EPOCHREALTIME/./}
	last=$((end - began))
	echo "$((now - began)) $((end - now)) $failed"
done >"$work/reads" &
reader=$!
for _ in 1 2; do
	sleep 1
	kill -9 "$(pgrep -P "$daemon" -f serve-worker)"
	echo $((${EPOCHREALTIME/./} - began))
done >"$work/kills"
wait "$reader"
awk -v kills="$(tr '\n' ' ' <"$work/kills")" '
function x(us) { return 60 + 600 * us / 3000000 }
function y(us) { return 220 - 45 * log(us / 10) / log(10) }
{ at = int($1 / 5000); if ($2 > most[at]) most[at] = $2; if ($2 > longest) longest = $2; failed = $3; n = NR; if (at > end) end = at }
END {
	print "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 700 270\" font-family=\"sans-serif\" font-size=\"12\">"
	print "<rect width=\"700\" height=\"270\" fill=\"white\"/>"
	print "<path d=\"M60 20V230H660\" fill=\"none\" stroke=\"black\"/>"
	split("10 µs,100 µs,1 ms,10 ms,100 ms", tick, ",")
	for (i = 1; i <= 5; i++) printf "<text x=\"52\" y=\"%d\" text-anchor=\"end\">%s</text>\n", y(10 ^ i) + 4, tick[i]
	for (i = 0; i <= 3; i++) printf "<text x=\"%d\" y=\"246\" text-anchor=\"middle\">%d s</text>\n", x(i * 1000000), i
	k = split(kills, kill, " ")
	for (i = 1; i <= k; i++) printf "<path d=\"M%.1f 30V230\" stroke=\"#d62728\"/><text x=\"%.1f\" y=\"28\" fill=\"#d62728\">kill -9</text>\n", x(kill[i]), x(kill[i]) + 4
	printf "<polyline fill=\"none\" stroke=\"#1f77b4\" points=\""
	for (i = 0; i <= end; i++) if (i in most) printf "%.1f,%.1f ", x(i * 5000), y(most[i])
	printf "\"/>\n<text x=\"60\" y=\"264\">%d reads of pids.max in a guest, %d failed; the longest took %.1f ms</text>\n</svg>\n", n, failed, longest / 1000
}' "$work/reads"
