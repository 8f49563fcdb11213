#!/bin/sh
# util-linux 2.41.5 (Debian 13's mount): where fsopen(2) is refused, mount(8) goes on with mount(2) for one errno, ENOSYS. With any other,
# EPERM as many seccomp profiles answer for calls that they do not know, it fails, though mount(2) is permitted and works.
#
#	sh findings/mount-fsopen-errno.sh	# as root on Debian 12 with Go
#
# Seen on Linux 6.18: "fsopen ENOSYS: mounted" and "fsopen EPERM: not mounted". Debian 12's own mount 2.38.1 does not call fsopen, and
# mounts under both. Who writes a filter: answer ENOSYS. Ends with 1 when a line differs.
set -eu
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'umount "$work/at" 2>/dev/null || :; rm -rf "$work"' EXIT
export XDG_CACHE_HOME="$work/cache"
. .ci/lib.sh

for package in 'mount 2[.]41[.]5-0[+]deb13u1' 'libmount1 2[.]41[.]5-0[+]deb13u1' 'libblkid1 2[.]41[.]5-0[+]deb13u1' \
	'libsmartcols1 2[.]41[.]5-0[+]deb13u1' 'libselinux1 3[.]8[.]1-1' 'libpcre2-8-0 10[.]46-1~deb13u3' 'libc6 2[.]41-12[+]deb13u[0-9]+'; do
	download "$package" "$work"
done
for package in "$work"/*.deb; do
	dpkg-deb -x "$package" "$work/root"
done

mkdir "$work/refused" "$work/at"
cat >"$work/refused/go.mod" <<-EOF
	module refused
	go 1.24
	require golang.org/x/sys v0.35.0
EOF
# refused ERRNO COMMAND... runs a command whose fsopen answers an errno.
cat >"$work/refused/main.go" <<-'EOF'
	package main

	import (
		"os"
		"runtime"
		"strconv"
		"unsafe"

		"golang.org/x/sys/unix"
	)

	func main() {
		runtime.LockOSThread()
		errno, err := strconv.Atoi(os.Args[1])
		if err != nil {
			panic(err)
		}
		filter := []unix.SockFilter{
			{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS}, // the call's number
			{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: unix.SYS_FSOPEN},
			{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(errno)},
			{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
		}
		program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			panic(err)
		}
		if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&program))); errno != 0 {
			panic(errno)
		}
		panic(unix.Exec(os.Args[2], os.Args[2:], os.Environ()))
	}
EOF
(cd "$work/refused" && GOFLAGS=-mod=mod quiet go mod tidy && CGO_ENABLED=0 quiet go build -o "$work/fsopen" .)

# try NAME ERRNO says what mount makes of it.
try() {
	lib=$work/root/usr/lib/x86_64-linux-gnu
	if "$work/fsopen" "$2" "$lib/ld-linux-x86-64.so.2" --library-path "$lib" "$work/root/usr/bin/mount" -t tmpfs finding "$work/at" \
		2>"$work/said"; then
		umount "$work/at"
		echo "fsopen $1: mounted"
	else
		echo "fsopen $1: not mounted: $(cat "$work/said")" | sed "s,$work,,g"
	fi
}
"$work/fsopen" 38 /bin/true
{
	try ENOSYS 38
	try EPERM 1
} | tee "$work/got"
printf '%s\n' 'fsopen ENOSYS: mounted' 'fsopen EPERM: not mounted: mount: /at: permission denied.' >"$work/want"
grep -v dmesg "$work/got" | sed 's/ *$//' | diff "$work/want" -
