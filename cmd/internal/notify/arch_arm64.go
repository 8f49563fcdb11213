package notify

// arches are this architecture and 32-bit ARM (include/uapi/asm-generic/unistd.h, arch/arm/tools/syscall.tbl). Programs
// of the latter may pass 88 for the size of compat_statfs64 (aarch32_statfs64, arch/arm64/kernel/sys32.c).
var arches = []arch{
	{
		audit: 0xc00000b7,
		numbers: map[call]uint32{
			callStatfs: 43, callFstatfs: 44, callMount: 40, callFsopen: nrFsopen, callClone: 220, callUnshare: 97,
			callClone3: nrClone3, callSetns: 268, callIoctl: 29, callAddKey: 217, callRequestKey: 218, callKeyctl: 219,
			callOpenat: 56, callOpenat2: nrOpenat2,
		},
	}, {
		audit: 0x40000028, narrow: true, sizes: []uint64{84, 88},
		numbers: map[call]uint32{
			callStatfs: 99, callFstatfs: 100, callStatfs64: 266, callFstatfs64: 267, callMount: 21, callFsopen: nrFsopen,
			callClone: 120, callUnshare: 337, callClone3: nrClone3,
			callSetns: 375, callIoctl: 54, callAddKey: 309, callRequestKey: 310, callKeyctl: 311,
			callOpen: 5, callOpenat: 322, callOpenat2: nrOpenat2,
		},
	},
}
