package api

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/vcgroupfs/vcgroupfs/cmd/internal/exitcode"
)

// TestFaults: docs/exit-codes.md has each row of the table, and an exit code survives the way over the wire.
func TestFaults(t *testing.T) {
	doc, err := os.ReadFile("../../../docs/exit-codes.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range faults {
		if !strings.Contains(string(doc), fmt.Sprintf("| `%s` | %d | %d |", f.code, f.status, f.exit)) {
			t.Errorf("%+v is not in the document", f)
		}
		err := error(&exitcode.Error{Code: f.exit, Err: errors.New("x")})
		if got := ExitOf(CodeOf(fmt.Errorf("y: %w", err), CodeConflict)); got != f.exit {
			t.Errorf("exit code %d is %d on the other side", f.exit, got)
		}
	}
	if got := CodeOf(errors.New("x"), CodeMissing); got != CodeMissing {
		t.Errorf("an error without an exit code is %q", got)
	}
	if got := ExitOf("of a later version"); got != exitcode.Failure {
		t.Errorf("an unknown code ends with %d", got)
	}
}
