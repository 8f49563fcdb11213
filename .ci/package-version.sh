#!/bin/sh
# package-version.sh DESCRIBED [COMMITS] prints a package's version, valid for deb and rpm, for what "git describe --always --dirty"
# says. Versions sort as the commits do: 1.2.0~rc1 before 1.2.0 before 1.2.0+4.g0123abc before 1.2.1. Before the first tag the
# number of commits stands for the version.
set -eu

described=${1#v}
dirty=
case $described in
*-dirty)
	dirty=.dirty
	described=${described%-dirty}
	;;
esac
case $described in
[0-9]*.[0-9]*-[0-9]*-g*) # TAG-COMMITS-gHASH
	hash=${described##*-}
	tag=${described%-*}
	version=${tag%-*}
	version=$(echo "$version" | tr - '~')+${tag##*-}.$hash$dirty
	;;
[0-9]*.[0-9]*) version=$(echo "$described" | tr - '~')${dirty:++dirty} ;;
*) version=0.0.0+${2:-0}.g$described$dirty ;;
esac
case $version in
*[!A-Za-z0-9.+~]*)
	echo "error: cannot make a package's version of \"$1\": a tag is vN.N.N or vN.N.N-WORD" >&2
	exit 1
	;;
esac
echo "$version"
