# To be sourced by a script called as "SCRIPT [KERNEL...] [-- OPTION...]": leaves the kernels in $kernels, and the options as
# the script's arguments.
kernels=
while [ $# -gt 0 ]; do
	[ "$1" != -- ] || {
		shift
		break
	}
	kernels="$kernels $1"
	shift
done
