package hierarchy

import (
	"bytes"
	"math"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Grammar is the form of a control file's values. The zero Grammar takes any text.
type Grammar struct {
	text  string // for people
	parse func(string) (Value, error)
}

// String describes the form in a few words.
func (g Grammar) String() string { return g.text }

// Parse parses a guest's write. As in the kernel a NUL byte ends the text and one trailing newline does not count.
// EINVAL for any other form, ERANGE for a number beyond 64 bits.
func (g Grammar) Parse(raw []byte) (Value, error) {
	if i := bytes.IndexByte(raw, 0); i >= 0 {
		raw = raw[:i]
	}
	s := strings.TrimSuffix(string(raw), "\n")
	if g.parse == nil {
		return textValue(s), nil
	}
	return g.parse(s)
}

// The grammars of the table. The kernel's parsers differ in whether they strip blanks: handlers of .write do
// (strstrip), those of .write_u64 and .write_s64 do not (cgroup_file_write).
var (
	anyText   = Grammar{text: "anything"}
	reset     = Grammar{"anything, for a reset", parseReset}
	unsigned  = Grammar{"number", parseUnsigned}
	signed    = Grammar{"number, may be negative", parseSigned}
	countMax  = Grammar{"number or max", stripped(orWord("max", parseUnsigned))}
	sizeMax   = Grammar{"bytes with K, M, G, T, P or E, or max", stripped(orWord("max", parseSize))}
	sizeMinus = Grammar{"bytes with K, M, G, T, P or E, or -1", stripped(orWord("-1", parseSize))}
	reclaim   = Grammar{"bytes [swappiness=0..200]", stripped(parseReclaim)}
	cpuMax    = Grammar{"microseconds or max [period in microseconds]", stripped(parseCPUMax)}
	percent   = Grammar{"percent with up to two decimals, or max", stripped(orWord("max", parsePercent))}
	list      = Grammar{"list of numbers and ranges", stripped(parseList)}
	deviceNum = Grammar{"MAJOR:MINOR number", stripped(parseDeviceNumber)}
	frozen    = words("FROZEN", "THAWED")
	threaded  = words("threaded")
	partition = words("member", "root", "isolated")
	pressure  = Grammar{text: "some|full threshold window, in microseconds"}
	members   = Grammar{text: "one pid, 0 for the writer"}
	subtree   = Grammar{text: "+CONTROLLER -CONTROLLER ..."}
	rule      = Grammar{text: "a|b|c MAJOR:MINOR rwm"}
	priority  = Grammar{text: "no-change|restrict-to-be|idle"}
	eventfd   = Grammar{text: "EVENTFD FD [arguments]"}
	perDevice = Grammar{text: "MAJOR:MINOR KEY=VALUE ..."}
	perName   = Grammar{text: "NAME VALUE"}
)

func stripped(parse func(string) (Value, error)) func(string) (Value, error) {
	return func(s string) (Value, error) { return parse(strings.Trim(s, " \t\n\v\f\r")) }
}

// orWord adds a word for "no limit" to a grammar.
func orWord(word string, parse func(string) (Value, error)) func(string) (Value, error) {
	return func(s string) (Value, error) {
		if s == word {
			return unlimitedValue(word), nil
		}
		return parse(s)
	}
}

// words is the grammar of a few fixed words.
func words(all ...string) Grammar {
	return Grammar{strings.Join(all, "|"), stripped(func(s string) (Value, error) {
		for _, w := range all {
			if s == w {
				return textValue(s), nil
			}
		}
		return Value{}, unix.EINVAL
	})}
}

func parseReset(string) (Value, error) { return textValue("0"), nil }

// ParseUint is the kernel's kstrtoull with base 0: an optional '+', then decimal, octal after a 0, or hexadecimal
// after 0x. EINVAL, or ERANGE for more than 64 bits.
func ParseUint(s string) (uint64, error) { return parseDigits(strings.TrimPrefix(s, "+")) }

func parseDigits(s string) (uint64, error) {
	base := 10
	switch {
	case len(s) > 2 && s[0] == '0' && s[1]|0x20 == 'x':
		s, base = s[2:], 16
	case len(s) > 1 && s[0] == '0':
		s, base = s[1:], 8
	}
	if s == "" || strings.ContainsAny(s, "+-_") {
		return 0, unix.EINVAL
	}
	n, err := strconv.ParseUint(s, base, 64)
	if ne, ok := err.(*strconv.NumError); ok {
		if ne.Err == strconv.ErrRange {
			return 0, unix.ERANGE
		}
		return 0, unix.EINVAL
	}
	return n, nil
}

func parseUnsigned(s string) (Value, error) {
	n, err := ParseUint(s)
	return numberValue(n), err
}

// parseSigned is kstrtoll with base 0. Any negative number is "no limit" in every file with this grammar.
func parseSigned(s string) (Value, error) {
	digits, negative := strings.CutPrefix(s, "-")
	if !negative {
		digits = strings.TrimPrefix(s, "+")
	}
	n, err := parseDigits(digits)
	switch {
	case err != nil:
		return Value{}, err
	case negative && n > 1<<63 || !negative && n > math.MaxInt64:
		return Value{}, unix.ERANGE
	case negative && n > 0:
		return unlimitedValue("-" + strconv.FormatUint(n, 10)), nil
	}
	return numberValue(n), nil
}

// parseSize parses a number with a unit like memparse (lib/cmdline.c), but refuses an overflow, which wraps there
// (16E sets a limit of 0), and a text without digits.
func parseSize(s string) (Value, error) {
	shift := 0
	if s != "" {
		if i := strings.IndexByte("KMGTPE", s[len(s)-1]&^0x20); i >= 0 && !strings.HasPrefix(strings.ToLower(s), "0x") {
			shift, s = 10*(i+1), s[:len(s)-1]
		} else if i >= 0 && s[len(s)-1]|0x20 != 'e' {
			// In a hexadecimal number E is a digit.
			shift, s = 10*(i+1), s[:len(s)-1]
		}
	}
	n, err := parseDigits(s)
	if err != nil || n > math.MaxUint64>>shift {
		return Value{}, unix.EINVAL
	}
	return numberValue(n << shift), nil
}

// parseReclaim parses an argument of memory.reclaim (user_proactive_reclaim, mm/vmscan.c).
func parseReclaim(s string) (Value, error) {
	size, options, _ := strings.Cut(s, " ")
	v, err := parseSize(size)
	if err != nil {
		return Value{}, err
	}
	for _, word := range strings.Fields(options) {
		raw, ok := strings.CutPrefix(word, "swappiness=")
		if !ok {
			return Value{}, unix.EINVAL
		}
		n, err := ParseUint(raw)
		if raw != "max" && (err != nil || n > 200) {
			return Value{}, unix.EINVAL
		}
		v = textValue(string(v.Canonical()) + " swappiness=" + raw)
	}
	return v, nil
}

// parseCPUMax parses "$MAX [$PERIOD]". EINVAL for text after the numbers, which the kernel's sscanf accepts
// (cpu_period_quota_parse).
func parseCPUMax(s string) (Value, error) {
	f := strings.Fields(s)
	if len(f) < 1 || len(f) > 2 {
		return Value{}, unix.EINVAL
	}
	var n [2]uint64
	for i, word := range f {
		if i == 0 && word == "max" {
			continue
		}
		var err error
		if n[i], err = strconv.ParseUint(word, 10, 64); err != nil {
			return Value{}, unix.EINVAL
		}
		f[i] = strconv.FormatUint(n[i], 10)
	}
	return Value{text: strings.Join(f, " "), number: n[0], unlimited: f[0] == "max"}, nil
}

var percentForm = regexp.MustCompile(`^[0-9]{1,3}(\.[0-9]{1,2})?$`)

func parsePercent(s string) (Value, error) {
	if !percentForm.MatchString(s) {
		return Value{}, unix.EINVAL
	}
	return textValue(s), nil
}

// listRegion matches the first region of a list like bitmap_parse_region (lib/bitmap-str.c).
var listRegion = regexp.MustCompile(`^((?i:all)|(N|[0-9]+)(-(N|[0-9]+))?)(:[0-9]+/[0-9]+)?`)

// listSeparators separate regions (__end_of_region).
const listSeparators = ", \t\n\v\f\r"

// parseList parses a list of processors or memory nodes like bitmap_parselist: a newline directly after a region
// without a pattern ends the list, whatever follows. The canonical form of an empty list is a newline, since an
// empty write would not reach the kernel's handler.
func parseList(s string) (Value, error) {
	var regions []string
	for s = strings.TrimLeft(s, listSeparators); s != ""; s = strings.TrimLeft(s, listSeparators) {
		region := listRegion.FindString(s)
		s = s[len(region):]
		pattern := strings.Contains(region, ":")
		if region == "" || s != "" && !pattern && !strings.ContainsRune(listSeparators, rune(s[0])) {
			return Value{}, unix.EINVAL
		}
		if len(region) > 2 && region[0]|0x20 == 'a' {
			region = "all" + region[3:]
		}
		regions = append(regions, region)
		if strings.HasPrefix(s, "\n") && !pattern {
			break
		}
	}
	if len(regions) == 0 {
		return textValue("\n"), nil
	}
	return textValue(strings.Join(regions, ",")), nil
}

// parseDeviceNumber parses "MAJOR:MINOR N". EINVAL for text after it: blkg_conf_prep and sscanf read "8:0 1M" as 1.
func parseDeviceNumber(s string) (Value, error) {
	f := strings.Fields(s)
	if len(f) != 2 {
		return Value{}, unix.EINVAL
	}
	major, minor, ok := strings.Cut(f[0], ":")
	for _, word := range []string{major, minor, f[1]} {
		if _, err := strconv.ParseUint(word, 10, 64); err != nil || !ok {
			return Value{}, unix.EINVAL
		}
	}
	return textValue(f[0] + " " + f[1]), nil
}
