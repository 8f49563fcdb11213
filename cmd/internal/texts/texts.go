// Package texts writes figures and a guest's own texts for people.
//
// A dash stands for a figure that is not known, which is -1 on the wire.
package texts

import (
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Visible returns a guest's text, such as a process's name, with all characters quoted if one of them would move the
// cursor or break a table.
func Visible(s string) string {
	// A byte that is no UTF-8 may be a control character to a terminal with 8 bits.
	if utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !strconv.IsPrint(r) }) {
		return s
	}
	q := strconv.Quote(s)
	return q[1 : len(q)-1]
}

// Dash returns s, or a dash for an empty text.
func Dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// State returns the state of a guest or a cgroup.
func State(frozen bool) string {
	if frozen {
		return "frozen"
	}
	return "-"
}

// OfLimit returns a figure with its limit, if there is one.
func OfLimit(now, limit string) string {
	if limit == "-" {
		return now
	}
	return now + "/" + limit
}

// Count returns a number.
func Count(n int64) string {
	if n < 0 {
		return "-"
	}
	return strconv.FormatInt(n, 10)
}

// CPUTime returns a time in microseconds, to 10 ms.
func CPUTime(usec int64) string {
	if usec < 0 {
		return "-"
	}
	return (time.Duration(usec) * time.Microsecond).Round(10 * time.Millisecond).String()
}

// Bytes returns an amount of memory in the largest unit that leaves at least 1.
func Bytes(n int64) string {
	if n < 0 {
		return "-"
	}
	if n < 1024 {
		return strconv.FormatInt(n, 10) + "B"
	}
	f, unit := float64(n)/1024, 0
	for ; f >= 1023.95 && unit < len("KMGTPE")-1; unit++ {
		f /= 1024
	}
	return strings.TrimSuffix(strconv.FormatFloat(f, 'f', 1, 64), ".0") + "KMGTPE"[unit:unit+1]
}
