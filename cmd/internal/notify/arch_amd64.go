package notify

// arches are this architecture and i386 (arch/x86/entry/syscalls). The size argument of statfs64 is that of
// compat_statfs64.
var arches = []arch{
	{
		audit: 0xc000003e, foreign: 0x40000000, // __X32_SYSCALL_BIT
		numbers: map[call]uint32{
			callStatfs: 137, callFstatfs: 138, callMount: 165, callFsopen: nrFsopen, callClone: 56, callUnshare: 272,
			callClone3: nrClone3, callSetns: 308, callIoctl: 16, callAddKey: 248, callRequestKey: 249, callKeyctl: 250,
			callOpen: 2, callOpenat: 257, callOpenat2: nrOpenat2,
		},
	}, {
		audit: 0x40000003, narrow: true, sizes: []uint64{84},
		numbers: map[call]uint32{
			callStatfs: 99, callFstatfs: 100, callStatfs64: 268, callFstatfs64: 269, callMount: 21, callFsopen: nrFsopen,
			callClone: 120, callUnshare: 310, callClone3: nrClone3,
			callSetns: 346, callIoctl: 54, callAddKey: 286, callRequestKey: 287, callKeyctl: 288,
			callOpen: 5, callOpenat: 295, callOpenat2: nrOpenat2,
		},
	},
}
