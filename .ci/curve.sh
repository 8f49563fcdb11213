#!/bin/sh
# Draws what a soak has sampled: curve.sh FILE.tsv prints an SVG with the resident memory, threads and descriptors of both
# processes over time, each as a part of its own most.
set -eu
[ $# -eq 1 ] || {
	echo "usage: $0 FILE.tsv" >&2
	exit 2
}
exec awk -F '\t' '
NR == 1 { for (i = 2; i <= NF; i++) name[i] = $i; n = NF; next }
{ t[NR] = $1; last = NR; for (i = 2; i <= n; i++) { v[NR, i] = $i; if ($i > most[i]) most[i] = $i } }
END {
	split("- #1f77b4 #2ca02c #9467bd #d62728 #ff7f0e #8c564b", colour, " ")
	print "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 900 420\" font-family=\"sans-serif\" font-size=\"12\">"
	print "<rect width=\"900\" height=\"420\" fill=\"white\"/>"
	printf "<path d=\"M60 20V360H680\" fill=\"none\" stroke=\"black\"/><text x=\"60\" y=\"380\">0</text><text x=\"640\" y=\"380\">%d s</text>\n", t[last]
	for (i = 2; i <= n; i++) {
		printf "<polyline fill=\"none\" stroke=\"%s\" points=\"", colour[i]
		for (r = 2; r <= last; r++) printf "%.1f,%.1f ", 60 + 620 * t[r] / t[last], 360 - 320 * v[r, i] / (most[i] ? most[i] : 1)
		printf "\"/>\n<text x=\"695\" y=\"%d\" fill=\"%s\">%s, most %d</text>\n", 40 + 20 * i, colour[i], name[i], most[i]
	}
	print "</svg>"
}' "$1"
