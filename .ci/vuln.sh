#!/bin/sh
# govulncheck, with the database of known vulnerabilities from the module golang.org/x/vulndb: VULNDB is its version, or "latest". Where the
# module proxy does not serve that, or govulncheck, the step is skipped and says so.
set -eu
cd "$(dirname "$0")/.."
. .ci/lib.sh

go=${GO:-go}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
(cd "$work" && "$go" mod download -json "golang.org/x/vulndb@$VULNDB") >"$work/module" 2>"$work/said" || {
	say "not looked for: known vulnerabilities (golang.org/x/vulndb is not to be had: $(grep -m 1 -o '"Error": .*' "$work/module" || tail -n 1 "$work/said"))"
	exit 0
}
reports=$(sed -n 's/^\t"Dir": "\(.*\)",\{0,1\}$/\1/p' "$work/module")/data/osv
GOBIN=$work "$go" install "golang.org/x/vuln/cmd/govulncheck@$GOVULNCHECK" 2>"$work/said" || {
	say "not looked for: known vulnerabilities (govulncheck is not to be had: $(tail -n 1 "$work/said"))"
	exit 0
}
"$go" run ./.ci/vuln index "$reports" "$work/db"
"$work/govulncheck" -db "file://$work/db" -format json ./cmd/... >"$work/findings"
"$go" run ./.ci/vuln judge <"$work/findings"
