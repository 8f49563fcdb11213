package conn

// Opcodes: enum fuse_opcode of include/uapi/linux/fuse.h. go-fuse does not export its own.
const (
	OpLookup      = 1
	OpForget      = 2
	OpGetattr     = 3
	OpSetattr     = 4
	OpReadlink    = 5
	OpSymlink     = 6
	OpMknod       = 8
	OpMkdir       = 9
	OpUnlink      = 10
	OpRmdir       = 11
	OpRename      = 12
	OpLink        = 13
	OpRead        = 15
	OpWrite       = 16
	OpStatfs      = 17
	OpRelease     = 18
	OpSetxattr    = 21
	OpGetxattr    = 22
	OpListxattr   = 23
	OpRemovexattr = 24
	OpInit        = 26
	OpOpendir     = 27
	OpReaddir     = 28
	OpReleasedir  = 29
	OpCreate      = 35
	OpInterrupt   = 36
	OpIoctl       = 39
	OpPoll        = 40
	OpNotifyReply = 41
	OpBatchForget = 42
	OpReaddirplus = 44
	OpRename2     = 45
	OpTmpfile     = 51
)
