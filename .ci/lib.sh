# Functions that the scripts beside this file share. Sourced, not run; the shell is POSIX with "local" left out.
# shellcheck shell=sh

# cache is where downloaded packages are kept between runs. Everything in it can be deleted at any time.
cache=${XDG_CACHE_HOME:-${HOME:?}/.cache}/vcgroupfs

say() { echo "== $*" >&2; }

die() {
	echo "error: $*" >&2
	exit 1
}

# install_missing COMMAND=PACKAGE... installs the Debian packages whose command is not there.
install_missing() {
	missing=
	for pair; do
		command -v "${pair%%=*}" >/dev/null 2>&1 || missing="$missing ${pair#*=}"
	done
	[ -n "$missing" ] || return 0
	command -v apt-get >/dev/null || die "missing:$missing; install them (only Debian's packages are installed automatically)"
	say "installing$missing"
	update_lists
	# shellcheck disable=SC2086 # one word a package
	DEBIAN_FRONTEND=noninteractive quiet apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends $missing
}

# quiet runs a command and shows what it printed only when it fails.
quiet() {
	log=$(mktemp)
	if "$@" >"$log" 2>&1 </dev/null; then
		rm -f "$log"
		return 0
	fi
	cat "$log" >&2
	rm -f "$log"
	die "failed: $*"
}

# docs_line FILE BEGINNING prints the one line of the docs' shell lines that begins so, with those in which it goes on.
docs_line() {
	awk -v begins="$2" '
		/^```/ { shell = $0 == "```sh"; next }
		shell && index($0, begins) == 1 { found++; going = 1 }
		going { line = $0; going = sub(/\\$/, "", line); sub(/ +# .*/, "", line); text = text line }
		END { if (found != 1) exit 1; print text }' "$1" || die "$1 has not one line that begins: $2"
}

# files_of PROGRAM... prints the files that programs consist of, those that are installed.
files_of() {
	for name; do
		program=$(command -v "$name") || continue
		echo "$program"
		ldd "$program" | awk '$3 ~ "^/" { print $3 } $1 ~ "^/" { print $1 }'
	done
}

# update OPTION... brings lists of apt up to date. Another that does so at the same time is waited for: apt itself does not (its
# DPkg::Lock::Timeout is for dpkg alone), and fails.
update() {
	mkdir -p "$cache"
	flock "$cache/lists.lock" apt-get "$@" update
}

# update_lists brings apt's own lists up to date, once per script.
update_lists() {
	[ -z "${lists_fresh:-}" ] || return 0
	quiet update
	lists_fresh=1
}

# newest REGEX [APT OPTION...] prints the newest candidate whose whole "PACKAGE VERSION" matches, or nothing.
newest() {
	pattern=$1
	shift
	apt-cache "$@" dumpavail 2>/dev/null | awk -v pattern="^($pattern)\$" '
		$1 == "Package:" { name = $2 }
		$1 == "Version:" && (name " " $2) ~ pattern { print name, $2 }' |
		sort -k2,2V | tail -n 1
}

# download REGEX DIRECTORY puts the .deb of the newest package whose "PACKAGE VERSION" matches into DIRECTORY. It asks this machine's own
# sources first, then other suites of the same mirror, with lists of their own, so that nothing of the machine changes.
download() {
	update_lists
	found=$(newest "$1")
	if [ -n "$found" ]; then
		fetch "$2" "$found"
		return
	fi
	for suite in bullseye bookworm bookworm-backports trixie trixie-backports forky sid; do
		private_lists "$suite" || continue
		found=$(newest "$1" -c "$private/apt.conf")
		if [ -n "$found" ]; then
			fetch "$2" "$found" -c "$private/apt.conf"
			return
		fi
	done
	die "no Debian suite that this machine's mirror serves has a package $1"
}

# unpacked NAME REGEX... sets $dir to a directory of the cache with the files of the packages whose "PACKAGE VERSION" match, which are
# downloaded when they are not there. Nothing is installed. The function usable is called first, with the directory, and ends the script
# when it fails.
unpacked() {
	dir=$cache/$1
	shift
	mkdir -p "${dir%/*}"
	exec 9>"$dir.lock"
	flock 9
	[ ! -e "$dir/ready" ] || return 0
	work=$(mktemp -d "$dir.XXXXXX")
	trap 'rm -rf "$work"' EXIT
	for wanted; do
		download "$wanted" "$work"
	done
	mkdir "$work/root"
	for package in "$work"/*.deb; do
		dpkg-deb -x "$package" "$work/root"
	done
	usable "$work/root" || die "what was downloaded cannot be used"
	touch "$work/root/ready"
	rm -rf "$dir"
	mv "$work/root" "$dir"
}

# fetch DIRECTORY "PACKAGE VERSION" [APT OPTION...] downloads one package.
fetch() {
	into=$1
	name=${2% *}
	version=${2#* }
	shift 2
	say "downloading $name $version"
	(cd "$into" && quiet apt-get "$@" -o APT::Sandbox::User=root download "$name=$version")
}

# private_lists SUITE sets $private to a directory with an apt.conf that knows only that suite of the machine's mirror.
# The mirror and its key are whatever the machine's own sources say.
private_lists() {
	private=$cache/apt/$1
	# shellcheck disable=SC2016 # apt expands them
	target=$(apt-get indextargets --format '$(SITE) $(SIGNED_BY) $(ORIGIN)' 'Created-By: Packages' 2>/dev/null |
		awk '/ Debian$/ && $1 !~ /security/ { print; exit }')
	site=${target%% *}
	[ -n "$site" ] || die "this machine's apt sources name no Debian mirror"
	key=$(echo "$target" | awk '$2 ~ "^/" { print $2 }') # apt before 2.7 does not know SIGNED_BY: its trusted keys then
	mkdir -p "$private/lists/partial" "$private/cache/archives/partial" "$private/empty"
	echo "deb ${key:+[signed-by=$key] }$site $1 main" >"$private/sources.list"
	cat >"$private/apt.conf" <<-EOF
		Dir::Etc::sourcelist "$private/sources.list";
		Dir::Etc::sourceparts "$private/empty";
		Dir::State::lists "$private/lists";
		Dir::State::status "/dev/null";
		Dir::Cache "$private/cache";
		APT::Sandbox::User "root";
	EOF
	update -c "$private/apt.conf" >"$private/update.log" 2>&1 </dev/null
}
