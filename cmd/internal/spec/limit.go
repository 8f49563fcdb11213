package spec

import (
	"fmt"
	"strings"
)

// Limit is one "FILE=VALUE".
type Limit struct {
	File, Value string
}

// ParseLimit reads "FILE=VALUE". The error shows the form.
func ParseLimit(s string) (Limit, error) {
	file, value, ok := strings.Cut(s, "=")
	if !ok || file == "" || value == "" || strings.Contains(file, "/") {
		return Limit{}, fmt.Errorf("cannot read limit %q: write FILE=VALUE, as in pids.max=64", s)
	}
	return Limit{file, value}, nil
}
