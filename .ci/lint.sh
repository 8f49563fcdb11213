#!/bin/sh
# gofmt, go vet, staticcheck and govulncheck, on Go; sh -n on the scripts; Helm, on the chart; the base of its image.
set -eu
cd "$(dirname "$0")/.."
. .ci/lib.sh

go=${GO:-go}
unformatted=$(git ls-files -co --exclude-standard -- '*.go' | xargs gofmt -l)
[ -z "$unformatted" ] || die "not as gofmt writes it: $unformatted"
for script in .ci/run .ci/check-skips .ci/*.sh findings/*.sh integration/vm/init.sh; do
	sh -n "$script"
done
"$go" vet ./...
"$go" vet -tags soak,failpoints ./...
"$go" run "honnef.co/go/tools/cmd/staticcheck@$STATICCHECK" ./...
.ci/chart.sh
grep -qE '^FROM [^ ]+@sha256:[0-9a-f]{64}$' packaging/kubernetes/Dockerfile || die "packaging/kubernetes/Dockerfile: the base is not pinned by its digest"
.ci/vuln.sh
