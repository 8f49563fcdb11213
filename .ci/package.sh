#!/bin/sh
# Makes bin/vcgroupfs_*.deb and bin/vcgroupfs-*.rpm out of bin/vcgroupfs, which must be built, and checks them: what is in them,
# that the program in them runs, and, as root, that the deb installs, upgrades and goes without a trace in a root of its own.
set -eu
cd "$(dirname "$0")/.."
. .ci/lib.sh

go=${GO:-go}
stage=bin/package
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# copyright prints our licence, then that of Go and of each module that is linked in: theirs ask to go with the program.
copyright() {
	cat LICENSE
	CGO_ENABLED=0 "$go" list -deps -f '{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}} {{.Dir}}{{end}}{{end}}' ./cmd/vcgroupfs | sort -u >"$work/modules"
	[ -s "$work/modules" ] || die "cannot list the modules that are linked in"
	echo "Go $("$go" env GOVERSION) $("$go" env GOROOT)" | cat - "$work/modules" | while read -r module version dir; do
		# A module may stand below its repository's root, and the licence there with it.
		printf '\n%s\n%s %s\n\n' "------------------------------------------------------------------------" "$module" "$version"
		cat "$dir"/LICENSE* "$dir"/NOTICE* 2>/dev/null >"$work/licence" || [ -s "$work/licence" ] || die "no licence in module $module"
		cat "$work/licence"
	done
}

# staged puts into bin/package what the program itself prints.
staged() {
	rm -rf "$stage"
	mkdir -p "$stage"
	bin/vcgroupfs man | gzip -9n >"$stage/vcgroupfs.8.gz"
	for shell in bash zsh fish; do
		bin/vcgroupfs completion "$shell" >"$stage/vcgroupfs.$shell"
	done
	bin/vcgroupfs policy default >"$stage/policy.yaml"
	copyright >"$stage/copyright"
}

# holds FILE... says that the list on standard input has each file.
holds() {
	cat >"$work/list"
	for file; do
		grep -q "$file\$" "$work/list" || die "not in the package: $file"
	done
}

# checked_files ROOT looks at the files of an unpacked package.
checked_files() {
	"$1/usr/bin/vcgroupfs" version >/dev/null || die "the packaged program does not run"
	"$1/usr/bin/vcgroupfs" policy check "$1/usr/share/vcgroupfs/policy.yaml" >/dev/null || die "the packaged policy is wrong"
	[ "$(readlink "$1/usr/sbin/mount.vcgroupfs")" = ../bin/vcgroupfs ] || die "mount.vcgroupfs does not lead to the program"
	find "$1" -type f -empty | while read -r file; do die "empty: $file"; done
	find "$1" -mindepth 1 -type d ! -perm 755 | while read -r dir; do die "not a directory for all to read: $dir"; done
	find "$1" ! -type l -perm /022 | while read -r file; do die "others may write: $file"; done
	page=$1/usr/share/man/man8/vcgroupfs.8.gz
	if command -v groff >/dev/null; then
		gunzip -c "$page" | groff -man -Tutf8 -ww 2>"$work/groff" | grep -q vcgroupfs || die "the manual page does not render"
		[ ! -s "$work/groff" ] || die "groff says of the manual page: $(cat "$work/groff")"
	else
		gunzip -t "$page"
	fi
	for shell in bash zsh fish; do
		command -v "$shell" >/dev/null || continue
		"$shell" -n "$stage/vcgroupfs.$shell" || die "the completion for $shell is not $shell"
	done
	checked_unit "$1/usr/lib/systemd/system/vcgroupfs.service" "$1/usr/bin/vcgroupfs"
}

# checked_unit UNIT PROGRAM. What the unit names is not installed here: the program is replaced, the manual left out. The list of
# settings that would keep the views from the host is in the unit.
checked_unit() {
	if grep -E '^(Private|Protect|ReadOnly|ReadWrite|Inaccessible|Exec(utable)?Paths|NoExecPaths|Bind|TemporaryFileSystem|Root|ProcSubset|DynamicUser|MountFlags|RestrictSUIDSGID)' "$1"; then
		die "the unit may not set this: it says why"
	fi
	command -v systemd-analyze >/dev/null || return 0
	sed -e "s,/usr/bin/vcgroupfs,$2," -e /^Documentation=/d "$1" >"$work/vcgroupfs.service"
	systemd-analyze verify "$work/vcgroupfs.service" >"$work/verify" 2>&1 || echo "status $?" >>"$work/verify"
	[ ! -s "$work/verify" ] || die "systemd-analyze verify: $(cat "$work/verify")" # an unknown setting is only a warning
}

# in_root COMMAND... runs dpkg on the root that checked_install has made.
in_root() { dpkg --root="$root" --force-not-root "$@" >>"$work/dpkg" 2>&1 || die "dpkg $1 fails: $(cat "$work/dpkg")"; }

# called LINE... says that systemctl was called so since the last time, in this order, and no more.
called() {
	printf '%s\n' "$@" | cmp -s - "$root/called" || die "systemctl was called: $(cat "$root/called")
but not: $*"
	: >"$root/called"
}

# checked_install DEB installs, upgrades and removes the package in a root that has a shell, and a systemctl that only notes how it
# is called and says that the service is active when there is a file "active".
checked_install() {
	root=$work/root
	mkdir -p "$root/bin" "$root/usr/bin" "$root/run/systemd/system" "$root/var/lib/dpkg/info" "$root/var/lib/dpkg/updates" "$root/var/lib/dpkg/triggers"
	: >"$root/var/lib/dpkg/status"
	: >"$root/called"
	cp "$busybox" "$root/bin/busybox"
	for applet in sh rm; do ln -s busybox "$root/bin/$applet"; done
	chroot "$root" /bin/sh -c : 2>/dev/null || {
		say "not tried: installing the deb: busybox is not static"
		return 0
	}
	cat >"$root/usr/bin/systemctl" <<-'EOF'
		#!/bin/sh
		echo "$*" >>/called
		case $1 in
		is-active) [ -e /active ] ;;
		reload) [ ! -e /refuses ] ;;
		esac
	EOF
	chmod 755 "$root/usr/bin/systemctl"
	(cd "$root" && find . -path ./var -prune -o -print | sort) >"$work/before"

	in_root --install "$1"
	called daemon-reload 'is-active --quiet vcgroupfs.service'
	chroot "$root" /usr/bin/vcgroupfs version >/dev/null || die "the installed program does not run"
	: >"$root/active"
	in_root --install "$1"
	called daemon-reload daemon-reload 'is-active --quiet vcgroupfs.service' 'reload vcgroupfs.service'
	: >"$root/refuses"
	echo changed >"$root/etc/vcgroupfs/guests.d/README"
	in_root --install "$1"
	called daemon-reload daemon-reload 'is-active --quiet vcgroupfs.service' 'reload vcgroupfs.service'
	grep -q 'its guests are not affected' "$work/dpkg" || die "nothing is said of a reload that failed"
	grep -q changed "$root/etc/vcgroupfs/guests.d/README" || die "an upgrade undoes what the administrator changed"
	in_root --remove vcgroupfs
	called '--no-reload disable --now vcgroupfs.service' daemon-reload
	grep -q changed "$root/etc/vcgroupfs/guests.d/README" || die "a removal takes the configuration away"
	in_root --purge vcgroupfs
	rm -f "$root/active" "$root/refuses"
	(cd "$root" && find . -path ./var -prune -o -print | sort) | diff "$work/before" - || die "left after the purge"
}

[ -x bin/vcgroupfs ] || die "bin/vcgroupfs is not built: make build"
staged
rm -f bin/vcgroupfs_*.deb bin/vcgroupfs-*.rpm
PACKAGE_VERSION=$(.ci/package-version.sh "$VERSION" "$(git rev-list --count HEAD 2>/dev/null || echo 0)")
PACKAGE_MAINTAINER=${PACKAGE_MAINTAINER:-The vcgroupfs authors <authors@vcgroupfs.invalid>}
GOARCH=$("$go" env GOARCH)
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2>/dev/null || date +%s) # the same commit, the same package
export PACKAGE_VERSION PACKAGE_MAINTAINER GOARCH SOURCE_DATE_EPOCH
for format in deb rpm; do
	# nfpm runs on this machine, whatever the package is for.
	quiet env -u GOARCH PACKAGE_GOARCH="$GOARCH" "$go" run "github.com/goreleaser/nfpm/v2/cmd/nfpm@$NFPM" package --config packaging/nfpm.yaml --packager "$format" --target bin/
done

set -- usr/bin/vcgroupfs usr/lib/systemd/system/vcgroupfs.service usr/share/vcgroupfs/policy.yaml usr/share/vcgroupfs/lxc.conf usr/share/containers/oci/hooks.d/vcgroupfs.json \
	usr/share/man/man8/vcgroupfs.8.gz etc/vcgroupfs/guests.d/README usr/share/doc/vcgroupfs/docs/operations.md \
	usr/share/vcgroupfs/prometheus/rules.yaml usr/share/vcgroupfs/grafana/dashboard.json
say bin/vcgroupfs_*.deb bin/vcgroupfs-*.rpm
if command -v rpm >/dev/null; then
	rpm -qlp bin/vcgroupfs-*.rpm | holds "$@" usr/share/licenses/vcgroupfs/LICENSE
fi
if command -v dpkg-deb >/dev/null; then
	deb=$(echo bin/vcgroupfs_*.deb)
	dpkg-deb -I "$deb" | grep -q "^ Version: $PACKAGE_VERSION-1\$" || die "the deb has not the version $PACKAGE_VERSION-1"
	dpkg-deb -c "$deb" | holds "$@" usr/share/doc/vcgroupfs/copyright
	dpkg-deb -x "$deb" "$work/files"
	if [ "$GOARCH" = "$("$go" env GOHOSTARCH)" ]; then
		checked_files "$work/files"
		busybox=$(command -v busybox || true)
		if [ -n "$busybox" ] && [ "$(id -u)" = 0 ]; then
			checked_install "$deb"
		else
			say "not tried: installing the deb (as root, with busybox)"
		fi
	fi
fi
