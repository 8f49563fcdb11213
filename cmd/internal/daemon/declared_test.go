package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestDeclaredOwner: a file that others than root own or may write, or the policy that it names, is not read.
func TestDeclaredOwner(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("machine: not root, who can give files away")
	}
	dir := t.TempDir()
	put := func(name, text string, mode os.FileMode, uid int) string {
		t.Helper()
		path := filepath.Join(dir, name)
		os.Remove(path)
		err := os.WriteFile(path, []byte(text), 0o600)
		if err == nil {
			err = os.Chown(path, uid, 0)
		}
		if err == nil {
			err = os.Chmod(path, mode)
		}
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	const spec = "boundary: /a\ntarget: /t\n"
	for _, c := range []struct {
		mode       os.FileMode
		uid        int
		policyMode os.FileMode
		says       string
	}{
		{0o644, 0, 0o644, ""}, {0o600, 0, 0o644, ""}, {0o644, 1000, 0o644, "belongs to user 1000"}, {0o664, 0, 0o644, "mode 0664"}, {0o646, 0, 0o644, "mode 0646"},
		{0o644, 0, 0o666, "cannot read its policy"},
	} {
		put("policy.yaml", "version: 1\n", c.policyMode, 0)
		_, _, err := readDeclared(put("a.yaml", spec+"policy: policy.yaml\n", c.mode, c.uid), 0)
		if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := (&declarations{dir: dir}).entries(); err == nil || !strings.Contains(err.Error(), "mode 0777") {
		t.Errorf("a directory that everybody may write to: %v", err)
	}
}

// TestDeclaredKeys: what a file says wrongly is said in the file's words, all of it, with what is allowed.
func TestDeclaredKeys(t *testing.T) {
	for text, says := range map[string]string{
		"boundary: /a\ntarget: /t\nlimits: {pids.max: 5, memory.max: 1G}\ncontrollers: [pids]\nowner:\n": "",
		"boundary: /a\ncolour: red\n":                        `line 2, column 1: unknown key "colour"; allowed: boundary, pid, currentCgroup, `,
		"pid: many\n":                                        "line 1, column 6: pid: wrong value; allowed: a whole number",
		"boundary: [a]\ncontrollers: pids\n":                 "line 2, column 14: controllers: wrong value; allowed: a list ([a, b])",
		"pid: 1\ninto: {path: /x, tmpfs: maybe, roofs: /}\n": `unknown key "into.roofs"; allowed: rootfs, path, stack, tmpfs, procCgroups`,
		"pid: 1\ninto: {path: /x, tmpfs: maybe}\n":           "into.tmpfs: wrong value; allowed: true, false",
		"limits: {pids.max: [1]}\n":                          "limits.pids.max: wrong value; allowed: a text",
		"- a\n":                                              "line 1, column 1: wrong value; allowed: a mapping",
		"":                                                   "it is empty", "boundary: /a\nboundary: /b\n": "boundary", "boundary: {\n": "line",
	} {
		path := filepath.Join(t.TempDir(), "a.yaml")
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		_, _, err := readDeclared(path, uint32(os.Getuid()))
		if (err == nil) != (says == "") || err != nil && (!strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "api.")) {
			t.Errorf("%q: %v; want %q", text, err, says)
		}
	}
}
