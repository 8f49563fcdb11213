// Package fault defines the program's error type. A fault is an error of a kind. One table gives each kind its exit
// code and, if the daemon may answer with it, its wire code and HTTP status.
//
// Codes and statuses are an ABI, documented in docs/exit-codes.md. A command's exit code is the same whether the
// command acts by itself or through the daemon.
package fault

import (
	"errors"
	"fmt"
	"net/http"
)

// Kind classifies an error for scripts and clients. The zero Kind is Failed.
type Kind int

// Kinds.
const (
	Failed        Kind = iota // the operation failed; also every error without a kind
	Missing                   // something named on the host does not exist, or is something else
	Conflict                  // another guest has that name or target, or another maker that guest
	Busy                      // a bound of the daemon is reached, or the daemon is ending
	Invalid                   // wrong command line or request
	BadPolicy                 // wrong or unreadable policy
	Unsupported               // impossible on this host, or with the caller's privileges
	Forbidden                 // the daemon refuses this caller
	NotFound                  // the daemon has no guest of that name, or no such route
	NoDaemon                  // no daemon is running
	RunFailed                 // "run" or "notify-exec" failed before its command began
	NotExecutable             // the command of "run" or "notify-exec" cannot be executed
	NoCommand                 // the command of "run" or "notify-exec" was not found
)

// row holds a kind's codes on each interface. A kind without a wire code stays within this process.
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

// ExitCode returns the kind's exit code.
func (k Kind) ExitCode() int { return k.row().exit }

// Code returns the kind's wire code, or that of Failed for a kind without one.
func (k Kind) Code() string { return k.wire().code }

// Status returns the HTTP status of Code.
func (k Kind) Status() int { return k.wire().status }

// row returns the row of Failed for an unknown number: another process may have sent it.
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

// KindOf returns the kind of a wire code, or Failed for a later version's.
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

// Error returns the message of the wrapped error.
func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns the wrapped error.
func (e *Error) Unwrap() error { return e.Err }

// New returns an error of a kind, formatted as by fmt.Errorf.
func New(kind Kind, format string, args ...any) error {
	return With(kind, fmt.Errorf(format, args...))
}

// With gives an error a kind; nil stays nil. An error with a kind keeps it.
func With(kind Kind, err error) error {
	var have *Error
	if err == nil || errors.As(err, &have) {
		return err
	}
	return &Error{kind, err}
}

// Of returns the kind of an error, or Failed for one without a kind and for nil.
func Of(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return Failed
}

// ExitCode returns the exit code of an error: ExitOK for nil, otherwise its kind's.
func ExitCode(err error) int {
	if err == nil {
		return ExitOK
	}
	return Of(err).ExitCode()
}
