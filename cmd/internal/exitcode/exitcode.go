// Package exitcode has the exit codes of vcgroupfs. They are an interface: docs/exit-codes.md is written from them, and a
// test holds the two together.
package exitcode

import "errors"

// The exit codes. "run" ends with its command's status, 128+n when that ended by signal n.
const (
	OK            = 0
	Failure       = 1   // what was asked for failed
	Usage         = 2   // the command line is wrong
	BadPolicy     = 3   // a policy is wrong, or cannot be read
	Unsupported   = 4   // the host, or the caller's privileges, cannot do it
	NoDaemon      = 5   // the daemon is not running
	NoGuest       = 6   // the daemon has no guest of that name
	RunFailed     = 125 // "run" or "notify-exec" failed before its command began
	NotExecutable = 126 // the command of "run" or "notify-exec" cannot be executed
	NotFound      = 127 // the command of "run" or "notify-exec" was not found
	SignalBase    = 128 // plus the signal's number
)

// Error is an error with the code that the program ends with.
type Error struct {
	Code int
	Err  error
}

func (e *Error) Error() string { return e.Err.Error() }

func (e *Error) Unwrap() error { return e.Err }

// With gives an error a code; nil stays nil. A code that it has already stays.
func With(code int, err error) error {
	var have *Error
	if err == nil || errors.As(err, &have) {
		return err
	}
	return &Error{code, err}
}

// Of is the code to end with: OK for nil, Failure for an error without a code.
func Of(err error) int {
	var e *Error
	switch {
	case err == nil:
		return OK
	case errors.As(err, &e):
		return e.Code
	}
	return Failure
}
