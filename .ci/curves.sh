#!/bin/sh
# Draws what BenchmarkCurves has measured: curves.sh FILE.tsv prints an SVG with a picture for each curve: medians in µs by guests, cgroups or
# depth. Upwards each line is ten times the one below.
set -eu
[ $# -eq 1 ] || {
	echo "usage: $0 FILE.tsv" >&2
	exit 2
}
exec awk -F '\t' '
{
	if (!($1 in curves)) { curves[$1] = ++n; title[n] = $1 }
	c = curves[$1]
	if (!((c, $2) in place)) { place[c, $2] = ++xs[c]; value[c, xs[c]] = $2 }
	if (!((c, $3) in line)) { line[c, $3] = ++lines[c]; name[c, lines[c]] = $3 }
	at[c, line[c, $3], place[c, $2]] = $4
	while ($4 > 10 ^ tens[c]) tens[c]++
}
END {
	split("#1f77b4 #d62728 #2ca02c #9467bd #ff7f0e #8c564b", colour, " ")
	high = 300
	printf "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 900 %d\" font-family=\"sans-serif\" font-size=\"12\">\n", n * high
	printf "<rect width=\"900\" height=\"%d\" fill=\"white\"/>\n", n * high
	for (c = 1; c <= n; c++) {
		top = (c - 1) * high + 30; low = top + 220
		printf "<path d=\"M60 %dV%dH620\" fill=\"none\" stroke=\"black\"/>", top, low
		printf "<text x=\"60\" y=\"%d\">µs</text><text x=\"630\" y=\"%d\">%s</text>", top - 8, low + 18, title[c]
		for (t = 0; t <= tens[c]; t++) {
			y = low - 220 * t / tens[c]
			printf "<path d=\"M60 %dH620\" stroke=\"#ddd\"/><text x=\"52\" y=\"%d\" text-anchor=\"end\">%d</text>\n", y, y + 4, 10 ^ t
		}
		for (x = 1; x <= xs[c]; x++) {
			px[x] = 80 + (x - 1) * 520 / (xs[c] > 1 ? xs[c] - 1 : 1)
			printf "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">%s</text>", px[x], low + 18, value[c, x]
		}
		for (l = 1; l <= lines[c]; l++) {
			printf "<polyline fill=\"none\" stroke=\"%s\" points=\"", colour[l]
			for (x = 1; x <= xs[c]; x++) printf "%.1f,%.1f ", px[x], low - 220 * log(at[c, l, x] > 1 ? at[c, l, x] : 1) / log(10) / tens[c]
			printf "\"/>\n<text x=\"640\" y=\"%d\" fill=\"%s\">%s: %.0f to %.0f</text>\n", top + 18 * l, colour[l], name[c, l], at[c, l, 1], at[c, l, xs[c]]
		}
	}
	print "</svg>"
}' "$1"
