// Package early answers "version" and a runtime's hooks before the rest of the program is initialised.
//
// A container's start waits for its hooks. Go initialises every package that is linked in, used or not, before main:
// 150 of them here, which take longer than all that a hook does. The order of initialisation is specified (The Go
// Programming Language Specification, "Program initialization"): of the packages whose imports are initialised, the one
// with the least import path is next. The imports of this package are few and have few of their own, so its turn comes
// before any package that takes time. A test checks the imports.
//
// # What always holds
//
// This package does only what succeeds. It leaves whatever is unusual, an option, a container's name, an answer of the
// daemon, to the rest of the program, which starts as if this package were not there: that knows all the cases, and has
// the messages. So whatever is asked of the daemon here can be asked once more: a PUT or DELETE of the same guest.
//
// It has no package of the module, and none that brings a table or a regular expression along: fmt, strings and
// encoding/json are initialised too late.
package early

import (
	"io"
	"os"
	"path"
	"runtime"
	"time"
)

// Version is set when the program is built.
var Version = "unknown"

// Spent is the time that this package has taken for a command line that it left to the rest of the program.
var Spent time.Duration

// given is the part of standard input that this package has read.
var given []byte

// Stdin returns standard input from its beginning.
func Stdin() io.Reader {
	return io.MultiReader(&remains{given}, os.Stdin)
}

// remains reads from bytes, as bytes.Reader does.
type remains struct{ rest []byte }

// Read reads the next bytes. io.EOF after the last one.
func (r *remains) Read(p []byte) (n int, err error) {
	if len(r.rest) == 0 {
		return 0, io.EOF
	}
	n = copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

func init() {
	began := time.Now()
	if Answered(os.Args) {
		os.Exit(0)
	}
	Spent = time.Since(began)
}

// Answered executes a command line, or reports that it is not for this package.
func Answered(args []string) bool {
	given = nil
	if len(args) < 2 || path.Base(args[0]) == "mount.vcgroupfs" {
		return false
	}
	for _, variable := range []string{"VCGROUPFS_LOG_LEVEL", "VCGROUPFS_LOG_FORMAT"} {
		if os.Getenv(variable) != "" {
			return false
		}
	}
	switch {
	case args[1] == "version" && len(args) == 2:
		_, err := os.Stdout.WriteString(VersionLine())
		return err == nil
	case args[1] == "hook" && len(args) > 2:
		return hook(args[2], args[3:])
	}
	return false
}

// VersionLine returns the line that "version" prints.
func VersionLine() string {
	return "vcgroupfs " + Version + " (" + runtime.Version() + ", " + runtime.GOOS + "/" + runtime.GOARCH + ")\n"
}
