package early

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestImports: this package is initialised before any that takes time only as long as it has few imports, and they have
// few of their own.
func TestImports(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-f", "{{.Standard}} {{.ImportPath}}", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	late := []string{"bytes", "bufio", "encoding/json", "fmt", "net", "reflect", "regexp", "strings", "unicode"}
	for line := range strings.Lines(string(out)) {
		standard, path, _ := strings.Cut(strings.TrimSpace(line), " ")
		if standard != "true" && !strings.HasSuffix(path, "/cmd/internal/early") || slices.Contains(late, path) {
			t.Errorf("%s is imported, by this package or one of its imports: its initialisation takes time, or comes late", path)
		}
	}
}

func TestParse(t *testing.T) {
	t.Setenv("VCGROUPFS_SOCKET", "")
	usual := options{socket: "/run/vcgroupfs/serve/api.sock", into: "/sys/fs/cgroup", madeBy: "hook", layout: "auto"}
	for line, change := range map[string]func(o *options){
		"":                     func(*options) {},
		"--socket /s":          func(o *options) { o.socket = "/s" },
		"--socket=/s --tmpfs":  func(o *options) { o.socket, o.tmpfs = "/s", true },
		"--into /x --no-stack": func(o *options) { o.into, o.noStack = "/x", true },
		"--stack --controllers memory,pids --made-by nri": func(o *options) {
			o.stack, o.controllers, o.madeBy = true, "memory,pids", "nri"
		},
		"--proc-cgroups --layout=v1 --policy p": func(o *options) { o.procCgroups, o.layout, o.policy = true, "v1", "p" },
	} {
		want := usual
		change(&want)
		if got, ok := parse(strings.Fields(line)); !ok || got != want {
			t.Errorf("%q: %+v, %v; want %+v", line, got, ok, want)
		}
	}
	for _, line := range []string{
		"word", "--nonsense", "-socket /s", "--socket", "--socket=", "--socket --tmpfs", "--tmpfs=true", "--stack --no-stack",
		"--into x", "--into /x/", "--tmpfs --tmpfs", "--help", "--",
	} {
		if got, ok := parse(strings.Fields(line)); ok {
			t.Errorf("%q is parsed: %+v", line, got)
		}
	}
}

func TestMembers(t *testing.T) {
	for text, want := range map[string]string{
		`{}`: "", ` { "a" : 1 } `: "a=1 ", `{"a":"x\"}","b":{"c":[1,"]"]},"d":null}`: `a="x\"}" b={"c":[1,"]"]} d=null `,
		`{"a": [] ,"b": true}`: "a=[] b=true ",
	} {
		var got string
		if !members([]byte(text), func(key string, value []byte) bool { got += key + "=" + string(value) + " "; return true }) ||
			got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
	for _, text := range []string{
		"", "[]", "null", "{", `{"a"}`, `{"a":}`, `{"a":1,}`, `{"a":1}x`, `{"a":1 "b":2}`, `{"a":1,"a":2}`, `{"\u0061":1}`, `{"a":"`,
		`{"a":{`, `{a:1}`, `{"a":1,,"b":2}`,
	} {
		if members([]byte(text), func(string, []byte) bool { return true }) {
			t.Errorf("%s: taken for an object", text)
		}
	}
}

// FuzzMembers: of what encoding/json takes for an object, members finds the same.
func FuzzMembers(f *testing.F) {
	for _, seed := range []string{`{"id":"web","pid":7,"annotations":{"a":"b"}}`, `{"a":[{"b":"\\"}],"c":-1e9}`, `{"a":"\u00e4"}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var whole map[string]json.RawMessage
		if json.Unmarshal(text, &whole) != nil || whole == nil {
			return
		}
		found := map[string][]byte{}
		if !members(text, func(key string, value []byte) bool { found[key] = value; return true }) {
			return
		}
		if len(found) != len(whole) {
			t.Errorf("%q: %d members, want %d", text, len(found), len(whole))
		}
		for key, value := range found {
			var want string
			if string(whole[key]) != string(value) {
				t.Errorf("%q: %q is %q, want %q", text, key, value, whole[key])
			} else if got, ok := plain(value); ok && (json.Unmarshal(value, &want) != nil || got != want) {
				t.Errorf("%q is %q, want %q", value, got, want)
			}
		}
	})
}

// FuzzQuote: a quoted text is that text in JSON.
func FuzzQuote(f *testing.F) {
	f.Add("a\"b\\c\nä\x00")
	f.Add("\xff")
	f.Fuzz(func(t *testing.T, text string) {
		raw, ok := quote(nil, text)
		var got string
		if ok && (json.Unmarshal(raw, &got) != nil || got != text) {
			t.Errorf("%q: %s", text, raw)
		}
	})
}

func TestRootOf(t *testing.T) {
	bundle := t.TempDir()
	for config, want := range map[string]string{
		`{"ociVersion": "1.0.2", "root": {"path": "rootfs", "readonly": true}}`: bundle + "/rootfs",
		`{"root": {"path": "/srv/x"}}`:                                          "/srv/x", `{"root": {"path": "../x"}}`: "", `{"root": {"path": "a\/b"}}`: "",
		`{"root": {}}`: "", `{}`: "", "": "", `{"root": {"path": 1}}`: "", `{"root": null}`: "",
	} {
		if err := os.WriteFile(filepath.Join(bundle, "config.json"), []byte(config), 0o644); err != nil {
			t.Fatal(err)
		}
		if got, ok := rootOf(bundle); ok != (want != "") || ok && got != want {
			t.Errorf("%s: %q, %v; want %q", config, got, ok, want)
		}
	}
	if _, ok := rootOf("/nowhere"); ok {
		t.Error("a bundle that is not there has a root")
	}
}

func TestIsName(t *testing.T) {
	for name, want := range map[string]bool{
		"web": true, "_a.b-c": true, strings.Repeat("a", 64): true,
		"": false, "-a": false, ".a": false, "a/b": false, "ä": false, strings.Repeat("a", 65): false,
	} {
		if isName(name) != want {
			t.Errorf("%q: %v, want %v", name, !want, want)
		}
	}
}
