package early

// members calls each for every member of a JSON object, with the key and the text of the value, until each refuses one.
// It reports that all were taken. It does not check the text: a value is whatever its quotes and brackets enclose. It
// refuses a key with an escape, and a key that is given twice.
func members(text []byte, each func(key string, value []byte) bool) bool {
	at := blank(text, 0)
	if at >= len(text) || text[at] != '{' {
		return false
	}
	seen := map[string]bool{}
	if at = blank(text, at+1); at < len(text) && text[at] == '}' {
		return blank(text, at+1) == len(text)
	}
	for at < len(text) && text[at] == '"' {
		end := valueEnd(text, at)
		key, ok := plain(text[at:end])
		if at = blank(text, end); !ok || seen[key] || at >= len(text) || text[at] != ':' {
			return false
		}
		seen[key] = true
		at = blank(text, at+1)
		end = valueEnd(text, at)
		if end == at || !each(key, text[at:end]) {
			return false
		}
		if at = blank(text, end); at >= len(text) || text[at] != ',' {
			return at < len(text) && text[at] == '}' && blank(text, at+1) == len(text)
		}
		at = blank(text, at+1)
	}
	return false
}

// blank returns the place of the next character other than white space.
func blank(text []byte, at int) int {
	for at < len(text) && (text[at] == ' ' || text[at] == '\n' || text[at] == '\t' || text[at] == '\r') {
		at++
	}
	return at
}

// valueEnd returns the end of the value that begins at a place; the place itself if there is none.
func valueEnd(text []byte, at int) int {
	begin, depth := at, 0
	for at < len(text) {
		switch text[at] {
		case '"':
			end := stringEnd(text, at)
			if end < 0 {
				return begin
			}
			if at = end; depth == 0 {
				return at
			}
			continue
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth == 0 {
				return at + 1
			}
			if depth < 0 {
				return at
			}
		case ',', ':', ' ', '\n', '\t', '\r':
			if depth == 0 {
				return at
			}
		}
		at++
	}
	return begin
}

// stringEnd returns the end of the string that begins at a place, negative for a string without an end.
func stringEnd(text []byte, at int) int {
	for at++; at < len(text); at++ {
		switch text[at] {
		case '\\':
			at++
		case '"':
			return at + 1
		}
	}
	return -1
}

// plain returns the content of a string that has printable characters of ASCII alone, and no escape.
func plain(value []byte) (content string, ok bool) {
	if len(value) < 2 || value[0] != '"' || value[len(value)-1] != '"' {
		return "", false
	}
	for _, c := range value[1 : len(value)-1] {
		if c < ' ' || c > '~' || c == '\\' || c == '"' {
			return "", false
		}
	}
	return string(value[1 : len(value)-1]), true
}

// quote appends a text as a JSON string. Not ok for a text that is not UTF-8.
func quote(to []byte, text string) ([]byte, bool) {
	const hex = "0123456789abcdef"
	to = append(to, '"')
	for _, c := range text {
		switch {
		case c == 0xfffd:
			// The text may have it, or have something else.
			return to, false
		case c == '"' || c == '\\':
			to = append(to, '\\', byte(c))
		case c < ' ':
			to = append(to, `\u00`...)
			to = append(to, hex[c>>4], hex[c&15])
		default:
			to = append(to, string(c)...)
		}
	}
	return append(to, '"'), true
}
