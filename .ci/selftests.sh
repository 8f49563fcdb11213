#!/bin/sh
# Runs the kernel's own tests of cgroups (tools/testing/selftests/cgroup), natively and in guests, in virtual machines with
# Debian cloud kernels of the series named.
#
#	.ci/selftests.sh 6.12... [-- TEST BINARY'S OPTION...]
#
# They are built, unmodified, from the source of the very kernel, and kept in the cache.
set -eu
cd "$(dirname "$0")/.."
. .ci/lib.sh

limit=30m

# usable DIRECTORY builds what is wanted of an unpacked source package there, and drops the rest. The flags are those of
# selftests/lib.mk and selftests/cgroup/Makefile; with an optimiser's, tests would allocate nothing.
usable() {
	top=$1/source/tools/testing/selftests
	mkdir "$1/source" "$1/bin"
	tar -C "$1/source" --strip-components=1 --wildcards -xf "$1"/usr/src/linux-source-*.tar.xz \
		'*/tools/testing/selftests/cgroup' '*/tools/testing/selftests/clone3/*.h' '*/tools/testing/selftests/pidfd/*.h' \
		'*/tools/testing/selftests/*.h'
	for source in "$top"/cgroup/test_*.c; do
		program=${source##*/}
		say "building ${program%.c}"
		quiet gcc -static -pthread -D_GNU_SOURCE= -w -o "$1/bin/${program%.c}" "$source" "$top/cgroup/cgroup_util.c"
	done
	rm -rf "$1/source" "$1/usr"
}

# built KERNEL sets $dir to a directory of the cache with the programs of an unpacked kernel, which says its version in
# its image: "Debian 6.1.192-2".
built() {
	version=$(strings "$1"/boot/vmlinuz-* | sed -n 's/.* Debian \([0-9][0-9.]*\)-.*/\1/p' | head -n 1)
	pattern=$(echo "linux-source-${version%.*} $version-" | sed 's/\./[.]/g')
	unpacked "selftests/$version" "$pattern.*"
	dir=$dir/bin
}

# in_vm SERIES [OPTION...] runs the tests. They want what most machines have: a working directory on a disk, whose files
# fill the page cache, some swap, and the name localhost; and one wants huge pages that are accounted (Linux 6.7). There is
# one processor: emulated ones take turns, so that a caller waits for a server on another one until its own turn is over.
in_vm() {
	kernel=$(.ci/kernel.sh "$1")
	name=linux-$1-selftests
	shift
	built "$kernel"
	printf '127.0.0.1 localhost\n' >bin/hosts
	# shellcheck disable=SC2016 # the machine's shell expands it
	set -- -memory 2048 -smp 1 -clock instructions -modules fuse,virtio_pci,virtio_blk,loop,overlay,ext4,zram \
		-env VCGROUPFS=/vcgroupfs/bin/vcgroupfs -env VCGROUPFS_SELFTESTS=/selftests -- /bin/sh -c '
		dd if=/dev/zero of=/disk.img bs=1M count=0 seek=512 && mke2fs -F /disk.img && mkdir /disk &&
		mount -t ext4 -o loop /disk.img /disk && chmod 1777 /disk &&
		echo 256M >/sys/block/zram0/disksize && mkswap /dev/zram0 && swapon /dev/zram0 && cd /disk || exit
		echo 20 >/proc/sys/vm/nr_hugepages
		mount -o remount,nsdelegate,memory_recursiveprot,memory_hugetlb_accounting /sys/fs/cgroup || :
		exec "$@"' sh /vcgroupfs/bin/integration.test -test.v -test.run '^TestSelftest' -test.timeout "$limit" "$@"
	flock --no-fork "bin/machine.$name.lock" bin/vm -kernel "$kernel" -timeout 31m -file bin/hosts=/etc/hosts \
		-file bin/vcgroupfs=/vcgroupfs/bin/vcgroupfs -file bin/integration.test=/vcgroupfs/bin/integration.test \
		-file "$dir=/selftests" "$@" 2>&1 </dev/null | tee "bin/$name.log"
	.ci/check-skips "$name" "bin/$name.log"
	grep -q '^=== vm: exit status 0 ===$' "bin/$name.log" || failed="$failed $name"
}

install_missing qemu-system-x86_64=qemu-system-x86 busybox=busybox-static xz=xz-utils 'gcc=gcc libc6-dev'
failed=
. .ci/kernels.sh
[ -n "$kernels" ] || die "usage: $0 SERIES... [-- TEST BINARY'S OPTION...]"
for one in $kernels; do
	in_vm "$one" "$@"
done
[ -z "$failed" ] || die "the selftests differ:$failed"
