package hierarchy

import "strconv"

// Value is a parsed write.
type Value struct {
	text      string
	number    uint64
	unlimited bool
}

// Number returns the number, and whether the value means "no limit" ("max" on v2, a negative number on v1). It is 0
// for a value of any other form than a single number.
func (v Value) Number() (number uint64, unlimited bool) { return v.number, v.unlimited }

// Canonical is the one form in which the value is written to the host.
func (v Value) Canonical() []byte { return []byte(v.text) }

func textValue(s string) Value { return Value{text: s} }

func numberValue(n uint64) Value { return Value{text: strconv.FormatUint(n, 10), number: n} }

func unlimitedValue(s string) Value { return Value{text: s, unlimited: true} }
