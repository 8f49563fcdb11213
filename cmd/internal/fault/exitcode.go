package fault

// Exit codes. They are an interface: docs/exit-codes.md lists each, and a test compares the two. "run" ends with its
// command's status, or 128+n if signal n ended the command.
const (
	ExitOK            = 0
	ExitFailure       = 1   // the operation failed
	ExitUsage         = 2   // wrong command line
	ExitBadPolicy     = 3   // wrong or unreadable policy
	ExitUnsupported   = 4   // impossible on this host, or with the caller's privileges
	ExitNoDaemon      = 5   // the daemon is not running
	ExitNoGuest       = 6   // the daemon has no guest of that name
	ExitRunFailed     = 125 // "run" or "notify-exec" failed before its command began
	ExitNotExecutable = 126 // the command of "run" or "notify-exec" cannot be executed
	ExitNotFound      = 127 // the command of "run" or "notify-exec" was not found
	ExitSignalBase    = 128 // plus the signal's number
)
