// Package fault is the error type of the program. A fault is an error of a kind; one table gives each kind its exit
// code and, where the daemon may answer with it, its code on the wire and its status of HTTP.
//
// Codes and statuses are an ABI, documented in docs/exit-codes.md. A command ends with the same exit code whether it
// does a thing by itself or asks the daemon to do it.
package fault

import (
	"errors"
	"fmt"
	"net/http"
)

// Kind says what went wrong, as scripts and clients tell it apart. The zero Kind is Failed.
type Kind int

// The kinds.
const (
	Failed        Kind = iota // it was tried and failed; also every error without a kind
	Missing                   // what was named on the host is not there, or is something else
	Conflict                  // another guest has that name or place, or another maker that guest
	Busy                      // a bound of the daemon is reached, or it is ending
	Invalid                   // the command line or the request is wrong
	BadPolicy                 // a policy is wrong, or cannot be read
	Unsupported               // the host, or the caller's privileges, cannot do it
	Forbidden                 // the daemon does not let the caller do it
	NotFound                  // the daemon has no guest of that name, or no such route
	NoDaemon                  // no daemon is running
	RunFailed                 // "run" or "notify-exec" failed before its command began
	NotExecutable             // the command of "run" or "notify-exec" cannot be executed
	NoCommand                 // the command of "run" or "notify-exec" was not found
)

// row is a kind as each interface names it. A kind without a wire code is of this process alone.
type row struct {
	code   string
	status int
	exit   int
}

var table = [...]row{
	Failed:        {"failed", http.StatusInternalServerError, ExitFailure},
	Missing:       {"missing", http.StatusConflict, ExitFailure},
	Conflict:      {"conflict", http.StatusConflict, ExitFailure},
	Busy:          {"busy", http.StatusServiceUnavailable, ExitFailure},
	Invalid:       {"invalid", http.StatusBadRequest, ExitUsage},
	BadPolicy:     {"bad-policy", http.StatusBadRequest, ExitBadPolicy},
	Unsupported:   {"unsupported", http.StatusUnprocessableEntity, ExitUnsupported},
	Forbidden:     {"forbidden", http.StatusForbidden, ExitUnsupported},
	NotFound:      {"not-found", http.StatusNotFound, ExitNoGuest},
	NoDaemon:      {exit: ExitNoDaemon},
	RunFailed:     {exit: ExitRunFailed},
	NotExecutable: {exit: ExitNotExecutable},
	NoCommand:     {exit: ExitNotFound},
}

// ExitCode is the code that a command ends with.
func (k Kind) ExitCode() int { return k.row().exit }

// Code is the kind's code on the wire: that of Failed for a kind of this process alone.
func (k Kind) Code() string { return k.wire().code }

// Status is the status of HTTP that goes with Code.
func (k Kind) Status() int { return k.wire().status }

// row is that of Failed for a number that is no kind: another process may have sent it.
func (k Kind) row() row {
	if k < 0 || int(k) >= len(table) {
		return table[Failed]
	}
	return table[k]
}

func (k Kind) wire() row {
	if r := k.row(); r.code != "" {
		return r
	}
	return table[Failed]
}

// KindOf is the kind of a code on the wire: Failed for one of a later version.
func KindOf(code string) Kind {
	for k, r := range table {
		if r.code == code && code != "" {
			return Kind(k)
		}
	}
	return Failed
}

// Error is an error of a kind.
type Error struct {
	Kind Kind
	Err  error
}

// Error is the message of the error inside.
func (e *Error) Error() string { return e.Err.Error() }

// Unwrap is the error inside.
func (e *Error) Unwrap() error { return e.Err }

// New is With of an error that fmt.Errorf makes.
func New(kind Kind, format string, args ...any) error {
	return With(kind, fmt.Errorf(format, args...))
}

// With gives an error a kind; nil stays nil. An error that has a kind keeps it.
func With(kind Kind, err error) error {
	var have *Error
	if err == nil || errors.As(err, &have) {
		return err
	}
	return &Error{kind, err}
}

// Of is the kind of an error: Failed for one without, and for nil.
func Of(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return Failed
}

// ExitCode is the code to end with: ExitOK for nil, else that of the error's kind.
func ExitCode(err error) int {
	if err == nil {
		return ExitOK
	}
	return Of(err).ExitCode()
}
