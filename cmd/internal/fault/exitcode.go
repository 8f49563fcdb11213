package fault

// The exit codes. They are an interface: docs/exit-codes.md has each, and a test holds the two together. "run" ends
// with its command's status, 128+n when signal n ended that.
const (
	ExitOK            = 0
	ExitFailure       = 1   // what was asked for failed
	ExitUsage         = 2   // the command line is wrong
	ExitBadPolicy     = 3   // a policy is wrong, or cannot be read
	ExitUnsupported   = 4   // the host, or the caller's privileges, cannot do it
	ExitNoDaemon      = 5   // the daemon is not running
	ExitNoGuest       = 6   // the daemon has no guest of that name
	ExitRunFailed     = 125 // "run" or "notify-exec" failed before its command began
	ExitNotExecutable = 126 // the command of "run" or "notify-exec" cannot be executed
	ExitNotFound      = 127 // the command of "run" or "notify-exec" was not found
	ExitSignalBase    = 128 // plus the signal's number
)
