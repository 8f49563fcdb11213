#!/bin/sh
# Lints the chart, renders it with several sets of values, and checks that it refuses others. Helm is built from its module, which takes
# two minutes of two processors the first time, and a second once Go has it in its cache.
set -eu
cd "$(dirname "$0")/.."
. .ci/lib.sh

chart=packaging/kubernetes/vcgroupfs
GOBIN=$PWD/bin quiet "${GO:-go}" install "helm.sh/helm/v3/cmd/helm@${HELM:?}"
out=$(mktemp)
trap 'rm -f "$out"' EXIT

# with SET... runs lint and template with values.
with() {
	for value; do
		shift
		set -- "$@" --set "$value"
	done
	bin/helm lint --strict "$chart" "$@" >"$out" 2>&1 &&
		bin/helm template test "$chart" --namespace test --kube-version 1.26.0 "$@" >"$out" 2>&1
}

# renders TEXT SET... wants what is rendered to have a line of this text.
renders() {
	text=$1
	shift
	with image.repository=x "$@" || {
		cat "$out" >&2
		die "the chart refuses: $*"
	}
	grep -qF -e "$text" "$out" || {
		cat "$out" >&2
		die "the chart with $* renders no $text"
	}
}

# refuses WORD SET... wants values to be refused with a word of what is wrong.
refuses() {
	word=$1
	shift
	! with "$@" || die "the chart takes: $*"
	grep -qF -e "$word" "$out" || {
		cat "$out" >&2
		die "the chart does not refuse $* for $word"
	}
}

# The docs' own line, with a cluster's place taken by the rendering of what it would be given.
install=$(docs_line docs/kubernetes.md 'helm install')
eval "bin/helm template --kube-version 1.26.0 ${install#helm install}" >"$out" 2>&1 || {
	cat "$out" >&2
	die "the chart refuses: $install"
}
grep -qF 'image: "registry.example.com/vcgroupfs:0.1.0"' "$out" && grep -qF -e '- --controllers=cpu,memory,pids' "$out" || {
	cat "$out" >&2
	die "the chart does not render what the docs install: $install"
}

renders 'image: "x:'
renders 'image: "x:v7"' image.tag=v7
renders '- --controllers=cpu,memory' 'controllers={cpu,memory}'
renders '- --stack' stack=true
renders '- --no-stack' stack=false
renders '- --tmpfs' tmpfs=true
renders '- --proc-cgroups' procCgroups=true
renders 'policy.yaml: "version: 1"' 'policy=version: 1'
renders '- --program=/var/lib/x/bin/vcgroupfs' hostDir=/var/lib/x
renders '- --max-guests=7' 'daemon.args={--max-guests=7}'
renders '- --plugin-index=05' nri.index=05 nri.name=a
renders 'path: "/run/nri"' nri.socketDir=/run/nri
renders 'priorityClassName: high' priorityClassName=high updateStrategy.type=RollingUpdate 'imagePullSecrets[0].name=s' podAnnotations.a=b nodeSelector.a=b

refuses image.repository image.tag=v7
refuses logLevel image.repository=x logLevel=loud
refuses hostDir image.repository=x hostDir=opt
refuses controllers image.repository=x 'controllers={+cpu}'
refuses controllers image.repository=x controllers=cpu
refuses stack image.repository=x stack=maybe
refuses tmpfs image.repository=x tmpfs=1
refuses index image.repository=x nri.index=9
refuses socketDir image.repository=x nri.socketDir=nri
refuses pullPolicy image.repository=x image.pullPolicy=Sometimes
refuses nonsense image.repository=x nonsense=1
