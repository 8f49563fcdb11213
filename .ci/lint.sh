#!/bin/sh
# gofmt, go vet, staticcheck, deadcode and govulncheck, on Go; sh -n on the scripts; promtool, on the alarms; Helm, on the chart; the base of
# its image.
set -eu
cd "$(dirname "$0")/.."
. .ci/lib.sh

go=${GO:-go}
unformatted=$(git ls-files -co --exclude-standard -- '*.go' | xargs gofmt -l)
[ -z "$unformatted" ] || die "not as gofmt writes it: $unformatted"
for script in .ci/run .ci/check-skips .ci/*.sh findings/*.sh integration/vm/init.sh; do
	sh -n "$script"
done
# Lines have at most 120 columns in these directories, but for tests and the tables of control files.
long=$(git ls-files -co --exclude-standard -- 'cmd/*.go' 'fs/*.go' 'hierarchy/*.go' 'policy/*.go' 'integration/kit/*.go' |
	grep -v -e '_test\.go$' -e '^hierarchy/.*table_v' |
	xargs env LC_ALL=C awk 'length > 120 { print FILENAME ":" FNR }')
[ -z "$long" ] || die "lines of more than 120 columns: $long"
"$go" vet ./...
"$go" vet -tags soak,failpoints ./...
"$go" run "honnef.co/go/tools/cmd/staticcheck@$STATICCHECK" ./...
# A function that neither the program nor a test reaches. An example that is not run is one for its package's page.
for tags in none failpoints soak; do
	dead=$("$go" run "golang.org/x/tools/cmd/deadcode@$DEADCODE" -test -tags "$tags" ./... | grep -v '_test\.go:.*: Example' || :)
	[ -z "$dead" ] || die "unreachable with -tags $tags: $dead"
done
promtool=$(.ci/prometheus.sh)/usr/bin/promtool
quiet "$promtool" check rules packaging/prometheus/rules.yaml
(cd packaging/prometheus && quiet "$promtool" test rules rules_test.yaml)
.ci/chart.sh
grep -qE '^FROM [^ ]+@sha256:[0-9a-f]{64}$' packaging/kubernetes/Dockerfile || die "packaging/kubernetes/Dockerfile: the base is not pinned by its digest"
.ci/vuln.sh
