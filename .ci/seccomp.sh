#!/bin/sh
# Makes packaging/seccomp/NAME.json from a file of a Go module: seccomp.sh NAME MODULE@VERSION FILE
set -eu
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
echo "module default" >"$work/go.mod" # this module does not depend on it
dir=$(cd "$work" && "${GO:-go}" mod download -json "$2" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
"${GO:-go}" run ./packaging/seccomp/generate /run/vcgroupfs/serve/notify <"$dir/$3" >"$work/profile"
mv "$work/profile" "packaging/seccomp/$1.json"
chmod 644 "packaging/seccomp/$1.json"
