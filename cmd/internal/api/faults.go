package api

import (
	"net/http"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/exitcode"
)

// fault is a kind of fault as each interface names it: the code on the wire, the status of HTTP, and the exit code of a command. A
// command that asks the daemon so ends as one does that does the same by itself.
type fault struct {
	code   string
	status int
	exit   int
}

// faults has a row for each code. Of those with the same exit code the first is what an error with that exit code becomes on the wire.
var faults = []fault{
	{CodeFailed, http.StatusInternalServerError, exitcode.Failure},
	{CodeMissing, http.StatusConflict, exitcode.Failure},
	{CodeConflict, http.StatusConflict, exitcode.Failure},
	{CodeBusy, http.StatusServiceUnavailable, exitcode.Failure},
	{CodeInvalid, http.StatusBadRequest, exitcode.Usage},
	{CodeBadPolicy, http.StatusBadRequest, exitcode.BadPolicy},
	{CodeUnsupported, http.StatusUnprocessableEntity, exitcode.Unsupported},
	{CodeForbidden, http.StatusForbidden, exitcode.Unsupported},
	{CodeNotFound, http.StatusNotFound, exitcode.NoGuest},
}

func faultOf(code string) (f fault, known bool) {
	for _, f := range faults {
		if f.code == code {
			return f, true
		}
	}
	return fault{}, false
}

// ExitOf is the exit code of a command that the daemon answered with a code: Failure for one of a later version.
func ExitOf(code string) int {
	if f, known := faultOf(code); known {
		return f.exit
	}
	return exitcode.Failure
}

// CodeOf is the code of an error by its exit code; otherwise for one that has none, or that of a plain failure.
func CodeOf(err error, otherwise string) string {
	exit := exitcode.Of(err)
	for _, f := range faults {
		if f.exit == exit && exit != exitcode.Failure {
			return f.code
		}
	}
	return otherwise
}
