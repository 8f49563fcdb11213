#!/bin/sh
# Prints the directory of a root file system of a Debian suite with the programs that the tests run as they are: systemd, runc, crun and
# podman; in trixie Docker, containerd and a JDK, too. The tree of bullseye has programs that look for cgroup v1; a JDK 8 and a Node.js 18,
# which run on later suites' libraries, have roots of their own there, /opt/jdk8 and /opt/node18. The tree called clients is of forky, with
# programs that look for their limits.
# Beside it is an image of it, DIRECTORY.ext4. What is not cached is downloaded; nothing is installed, and no package's script runs.
#
#	.ci/tree.sh bullseye|bookworm|trixie|forky|clients
set -eu
cd "$(dirname "$0")/.."
. .ci/lib.sh

tree=${1:?a suite, or clients}
suite=$tree
npm= # of npm's packages, those that bring a program along
packages="base-files base-passwd dash bash tar coreutils util-linux mount systemd dbus runc crun podman"
case $tree in
bullseye) packages="base-files base-passwd dash bash tar coreutils util-linux mount systemd dbus runc cgroup-tools iproute2
		slurmctld slurmd slurm-client" ;;
trixie) packages="$packages docker.io docker-cli containerd openjdk-25-jre-headless" ;;
clients)
	suite=forky
	packages="base-files base-passwd dash bash tar coreutils grep sed mawk libc-bin prometheus ninja-build rust-coreutils python3-loky
		python3-distributed erlang-base r-cran-parallelly hwloc-nox openmpi-bin slurmd ruby ruby-concurrent victoria-metrics duckdb
		condor"
	npm="@oven/bun-linux-x64-baseline@1.4.5 @deno/linux-x64-glibc@2.9.6"
	;;
esac
wanted=$packages${npm:+ $npm}
dir=$cache/trees/$tree
mkdir -p "${dir%/*}"
exec 9>"$dir.lock"
flock 9

# merged makes the links that Debian's base-files has since 13: earlier packages have files at both ends of them.
merged() {
	for name in bin sbin lib lib64; do
		mkdir -p "$1/usr/$name"
		ln -s "usr/$name" "$1/$name"
	done
}

# accounts are what base-passwd's script makes of its files.
accounts() {
	cp "$1/usr/share/base-passwd/passwd.master" "$1/etc/passwd"
	cp "$1/usr/share/base-passwd/group.master" "$1/etc/group"
	echo 00000000000000000000000000000001 >"$1/etc/machine-id"
}

# noted writes the versions of what the tree consists of into it, a line for each package.
noted() {
	for package in "$work"/archives/*.deb; do
		dpkg-deb -W --showformat '${Package} ${Version}\n' "$package"
	done >"$1/packages"
	for package in $npm; do
		echo "${package%@*} ${package##*@}"
	done >>"$1/packages"
}

# own_root DIRECTORY COMMAND... puts files into a directory that is to be the root of the program among them: those of the directory that
# the command prints. Without them it says so.
own_root() {
	into=$1
	shift
	from=$("$@") || {
		say "not there: $*"
		return 0
	}
	mkdir -p "$into/proc" "$into/sys" "$into/dev" "$into/tmp"
	cp -a "$from/." "$into"
	[ -e "$into/lib64" ] || ln -s usr/lib64 "$into/lib64"
}

[ "$(cat "$dir.packages" 2>/dev/null)" = "$wanted" ] || {
	update_lists
	private_lists "$suite" || die "this machine's mirror has no suite $suite"
	work=$(mktemp -d "$dir.XXXXXX")
	trap 'rm -rf "$work"' EXIT
	mkdir -p "$work/archives/partial" "$work/root"
	: >"$work/status" # nothing is there: all that is needed is downloaded
	say "downloading a tree of $suite: $tree"
	# shellcheck disable=SC2086 # words
	quiet apt-get -c "$private/apt.conf" -o "Dir::State::status=$work/status" -o "Dir::Cache::archives=$work/archives" \
		install --download-only -y --no-install-recommends $packages
	merged "$work/root"
	for package in "$work"/archives/*.deb; do
		dpkg-deb --fsys-tarfile "$package" | tar -x --keep-directory-symlink -C "$work/root"
	done
	noted "$work/root"
	if [ -n "$npm" ]; then
		install_missing npm=npm
		# shellcheck disable=SC2086 # words
		quiet npm install --prefix "$work/root/opt" --ignore-scripts --no-audit --no-fund --cache "$work/npm" $npm
	fi
	rm -rf "$work/root/usr/share/doc" "$work/root/usr/share/man" "$work/root/usr/share/locale"
	accounts "$work/root"
	if [ "$tree" = bullseye ]; then
		for program in "$work"/root/usr/sbin/*-wlm; do
			ln -s "${program##*/}" "${program%-wlm}" # as their packages' scripts do
		done
		own_root "$work/root/opt/jdk8" .ci/jdk.sh 8
		own_root "$work/root/opt/node18" .ci/node.sh
	fi
	if [ "$tree" = clients ]; then
		cp "$work/root/usr/lib/R/etc/Renviron.ucf" "$work/root/etc/R/Renviron" # as r-base-core's script does
	else
		chroot "$work/root" /usr/bin/systemctl --version >&2
	fi
	chmod 755 "$work/root"
	kib=$(du -sk "$work/root" | cut -f1)
	mke2fs -q -t ext4 -O ^has_journal -m 0 -d "$work/root" "$work/image" $((kib * 5 / 4 + 16384))k
	rm -rf "$dir" "$dir.packages"
	mv "$work/image" "$dir.ext4"
	mv "$work/root" "$dir"
	echo "$wanted" >"$dir.packages"
}
echo "$dir"
