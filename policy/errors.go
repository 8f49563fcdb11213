package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// Error is one fault of a policy.
type Error struct {
	File         string // as given to Parse
	Line, Column int    // counted from 1
	Key          string // where in the policy: "below.guarded[pids.max].range"; empty for the whole text
	Value        string // what was found there, shortened; empty where there is none to show
	Msg          string // what is wrong, and what is allowed
}

// Error gives the fault in one line: FILE:LINE:COLUMN: KEY: "VALUE": what is wrong; allowed: ….
func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s:%d:%d: ", e.File, e.Line, e.Column)
	if e.Key != "" {
		b.WriteString(e.Key + ": ")
	}
	if e.Value != "" {
		fmt.Fprintf(&b, "%q: ", e.Value)
	}
	b.WriteString(e.Msg)
	return b.String()
}

// Errors is every fault of a policy, in the order of the text. It is what Parse returns, never empty.
type Errors []*Error

// Error gives one line for each fault.
func (es Errors) Error() string {
	lines := make([]string, len(es))
	for i, e := range es {
		lines[i] = e.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap lets errors.As find an *Error.
func (es Errors) Unwrap() []error {
	all := make([]error, len(es))
	for i, e := range es {
		all[i] = e
	}
	return all
}

// inOrder sorts by position, keeping the order of faults of one place.
func (es Errors) inOrder() Errors {
	slices.SortStableFunc(es, func(a, b *Error) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return es
}

// maxShown is how much of a value a message repeats.
const maxShown = 80

// shorten cuts a value for a message, between runes.
func shorten(s string) string {
	if len(s) <= maxShown {
		return s
	}
	cut := maxShown
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "…"
}

// oneOf lists what is allowed.
func oneOf(names []string) string { return "allowed: " + strings.Join(names, ", ") }
